//! What was measured: medians and spreads, ratios and goals.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::servers::Cpu;

/// From deadline to close.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Lateness {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Lateness {
    /// Of these times in milliseconds.
    pub(crate) fn of(mut late_ms: Vec<f64>) -> Self {
        late_ms.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| late_ms.get((late_ms.len().saturating_sub(1) as f64 * share) as usize).copied();
        let at = |share| at(share).unwrap_or(f64::NAN);
        Self { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// One run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Run {
    /// Orders a second.
    pub(crate) rate: Option<f64>,
    /// The same of what the servers can do at best, measured along with it.
    pub(crate) limit: Option<f64>,
    pub(crate) lateness: Option<Lateness>,
    pub(crate) cpu: Option<Cpu>,
    /// Whatever else: name with unit, and value.
    pub(crate) more: BTreeMap<&'static str, f64>,
}

/// What was measured, in all its runs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// A short, stable name.
    pub(crate) name: String,
    /// What it is, in words.
    pub(crate) what: String,
    /// What the limit is.
    pub(crate) beside: &'static str,
    pub(crate) runs: Vec<Run>,
}

/// Something that is to be reached.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) value: f64,
    /// `at least` or `at most`, and how much.
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) met: bool,
}

impl Measurement {
    pub(crate) fn rate(&self) -> f64 {
        self.median(|run| run.rate)
    }

    pub(crate) fn limit(&self) -> f64 {
        self.median(|run| run.limit)
    }

    /// The median of the ratios of each run, since runs of the same moment share its noise.
    pub(crate) fn ratio(&self) -> f64 {
        self.median(|run| Some(run.rate? / run.limit?))
    }

    pub(crate) fn more(&self, name: &str) -> f64 {
        self.median(|run| run.more.get(name).copied())
    }

    pub(crate) fn median(&self, of: impl Fn(&Run) -> Option<f64>) -> f64 {
        let sorted = self.sorted(of);
        let (Some(low), Some(high)) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2))
        else {
            return f64::NAN;
        };
        f64::midpoint(*low, *high)
    }

    fn sorted(&self, of: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        let mut values: Vec<f64> = self.runs.iter().filter_map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    /// Median, and the lowest and highest where there was more than one run.
    fn spread(&self, of: impl Fn(&Run) -> Option<f64>) -> String {
        let sorted = self.sorted(&of);
        match sorted[..] {
            [] => String::new(),
            [one] => grouped(one),
            [low, .., high] => format!("{} ({} to {})", grouped(self.median(of)), grouped(low), grouped(high)),
        }
    }

    pub(crate) fn lateness(&self) -> String {
        let of = |of: fn(&Lateness) -> f64| self.median(|run| run.lateness.as_ref().map(of));
        let p50 = of(|lateness| lateness.p50_ms);
        if p50.is_nan() {
            return String::new();
        }
        let [p50, p99, max] = [p50, of(|lateness| lateness.p99_ms), of(|lateness| lateness.max_ms)].map(grouped);
        format!("{p50} / {p99} / {max}")
    }

    fn cpu(&self) -> String {
        let of = |of: fn(&Cpu) -> f64| self.median(|run| run.cpu.as_ref().map(of));
        let overdue = of(|cpu| cpu.overdue);
        if overdue.is_nan() {
            return String::new();
        }
        format!("{overdue:.1} / {:.1} / {:.1}", of(|cpu| cpu.broker), of(|cpu| cpu.database))
    }

    fn more_text(&self) -> String {
        let mut text = String::new();
        for name in self.runs.first().into_iter().flat_map(|run| run.more.keys()) {
            let _ = write!(text, "{}{name}: {}", if text.is_empty() { "" } else { ", " }, figure(self.more(name)));
        }
        text
    }
}

impl Goal {
    pub(crate) fn at_least(bound: f64, what: &str, value: f64) -> Self {
        Self { what: what.to_owned(), value, at_least: Some(bound), at_most: None, met: value >= bound }
    }

    pub(crate) fn at_most(bound: f64, what: &str, value: f64) -> Self {
        Self { what: what.to_owned(), value, at_least: None, at_most: Some(bound), met: value <= bound }
    }
}

pub(crate) fn table(measurements: &[Measurement]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "what",
        "orders/s",
        "limit/s",
        "ratio",
        "late p50/p99/max ms",
        "CPU s overdue/broker/db",
        "besides",
    ]);
    for measurement in measurements {
        let ratio = measurement.ratio();
        table.add_row([
            Cell::new(&measurement.what),
            Cell::new(measurement.spread(|run| run.rate)).set_alignment(CellAlignment::Right),
            Cell::new(measurement.spread(|run| run.limit)).set_alignment(CellAlignment::Right),
            Cell::new(if ratio.is_nan() { String::new() } else { figure(ratio) }).set_alignment(CellAlignment::Right),
            Cell::new(measurement.lateness()),
            Cell::new(measurement.cpu()),
            Cell::new(measurement.more_text()),
        ]);
    }
    table.to_string()
}

pub(crate) fn goals_table(goals: &[Goal]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["goal", "bound", "measured", "met"]);
    for goal in goals {
        let bound = match (goal.at_least, goal.at_most) {
            (Some(bound), _) => format!("at least {}", figure(bound)),
            (_, Some(bound)) => format!("at most {}", figure(bound)),
            _ => String::new(),
        };
        table.add_row([goal.what.clone(), bound, figure(goal.value), if goal.met { "yes" } else { "no" }.to_owned()]);
    }
    table.to_string()
}

pub(crate) fn json(machine: &Value, measurements: &[Measurement], goals: &[Goal]) -> Value {
    json!({ "machine": machine, "measurements": measurements, "goals": goals })
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    if value.abs() >= 100.0 {
        grouped(value)
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// `12,345`.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("-{text}") } else { text }
}

/// One measurement in a line, while the others are still under way.
pub(crate) fn line(measurement: &Measurement) -> String {
    let mut line = measurement.what.clone();
    let mut add = |name: &str, text: String| {
        if !text.is_empty() {
            let _ = write!(line, "; {name}{text}");
        }
    };
    add("orders/s ", measurement.spread(|run| run.rate));
    add("limit ", measurement.spread(|run| run.limit));
    add("late ms ", measurement.lateness());
    add("CPU s ", measurement.cpu());
    add("", measurement.more_text());
    line
}

pub(crate) fn machine_line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().map_or_else(|| machine[name].to_string(), str::to_owned);
    format!(
        "{} x {}, {} of memory, Linux {}; RabbitMQ {} on Erlang {}, PostgreSQL {}; commit {}. Servers, program and bench share the machine.",
        text("cores"),
        text("cpu"),
        text("memory"),
        text("kernel"),
        text("rabbitmq"),
        text("erlang"),
        text("postgresql"),
        text("commit"),
    )
}

/// To where results belong.
#[expect(clippy::print_stdout, reason = "this is what the program is for")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}
