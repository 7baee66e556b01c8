//! Measures Overdue on this machine, beside what its servers can do at best, and writes what it found: a table for people, JSON
//! for programs, plots for eyes. Each run ends with the audit; one that is not clean ends the bench.

mod amqp;
mod anatomy;
mod backlog;
mod bursts;
mod flows;
mod gateway;
mod limits;
mod plots;
mod results;
mod servers;
mod single;
mod stage;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::Value;

use crate::bursts::{Beside, Burst};
use crate::results::{Goal, Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// Measures Overdue beside the limits of its servers. `make bench` starts it with servers of its own.
#[derive(Debug, Parser)]
struct Settings {
    /// Fewer parts, smaller sizes, one run of each: for a first look, not for comparing
    #[arg(long)]
    quick: bool,
    /// Only these parts; `anatomy` runs only when it is named
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
    /// Where results go
    #[arg(long, default_value = "bench/results", value_name = "DIRECTORY")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Orders due at one instant
    Burst,
    /// The same with one SKU for all
    Hot,
    /// The same with 70 % paid before
    Paid,
    /// The same with a relay that sends the events meanwhile
    Events,
    /// The same with hash-partitioned tables
    Partitioned,
    /// One order a message
    Single,
    /// A transaction an order
    OneByOne,
    /// Orders that come and fall due all the time
    Steady,
    /// From the outbox to the confirm
    Relay,
    /// With many more pending
    Backlog,
    /// With a gateway to be asked
    Gateway,
    /// Workers and pipelines
    Scale,
    /// What each part of a close costs
    Anatomy,
}

impl Part {
    fn is_quick(self) -> bool {
        !matches!(self, Self::Events | Self::Partitioned | Self::Scale | Self::Anatomy)
    }
}

/// How much of everything.
struct Sizes {
    orders: u32,
    runs: usize,
    single: u32,
    /// How many shards one order a message is measured with.
    single_shards: &'static [u16],
    backlog_orders: u32,
    one_by_one: u32,
    steady_s: u32,
    relay: u32,
    backlog: &'static [u32],
    gateway: u32,
    scale: u32,
}

const FULL: Sizes = Sizes {
    orders: 200_000,
    runs: 3,
    single: 80_000,
    single_shards: &[1, 4],
    backlog_orders: 100_000,
    one_by_one: 6_000,
    steady_s: 60,
    relay: 100_000,
    backlog: &[0, 100_000, 1_000_000, 3_000_000],
    gateway: 4_000,
    scale: 50_000,
};

const QUICK: Sizes = Sizes {
    orders: 30_000,
    runs: 1,
    single: 20_000,
    single_shards: &[1],
    backlog_orders: 20_000,
    one_by_one: 2_000,
    steady_s: 5,
    relay: 20_000,
    backlog: &[0, 50_000],
    gateway: 1_000,
    scale: 20_000,
};

#[tokio::main]
async fn main() -> Result<()> {
    let settings = Settings::parse();
    let begun = Instant::now();
    let servers = Servers::local()?;
    let sizes = if settings.quick { QUICK } else { FULL };
    let machine = describe(&servers).await?;
    let (mut measurements, mut without_figure) = (Vec::new(), Vec::new());
    for part in Part::value_variants() {
        let usual = if settings.quick { part.is_quick() } else { *part != Part::Anatomy };
        if settings.only.contains(part) || settings.only.is_empty() && usual {
            let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            eprintln!("{:>4} s  {name}", begun.elapsed().as_secs());
            let measured = match measure(*part, &sizes, &servers).await {
                Ok(measured) => measured,
                Err(error) => {
                    eprintln!("        {name} has no figure: {error:#}");
                    without_figure.push(name);
                    continue;
                }
            };
            for measurement in &measured {
                eprintln!("        {}", results::line(measurement));
            }
            measurements.extend(measured);
            // Each time, so that what was measured is not lost with what comes after it.
            write(&settings.out, &machine, &measurements)?;
        }
    }
    results::print(&text(&measurements));
    eprintln!("{:>4} s  done; results are in {}", begun.elapsed().as_secs(), settings.out.display());
    anyhow::ensure!(without_figure.is_empty(), "without a figure: {}", without_figure.join(", "));
    eprintln!("        every audit was clean");
    Ok(())
}

async fn describe(servers: &Servers) -> Result<Value> {
    let stage = Stage::set(servers).await;
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&stage.world.pool).await?;
    stage.world.close().await;
    Ok(servers.describe(&version).await)
}

fn write(out: &Path, machine: &Value, measurements: &[Measurement]) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let json = results::json(machine, measurements, &goals(measurements));
    std::fs::write(out.join("results.json"), format!("{json:#}\n"))?;
    let page = format!("{}\n\n{}", results::machine_line(machine), text(measurements));
    std::fs::write(out.join("results.md"), page)?;
    plots::write(out, measurements)
}

fn text(measurements: &[Measurement]) -> String {
    format!("{}\n\n{}\n", results::table(measurements), results::goals_table(&goals(measurements)))
}

async fn measure(part: Part, sizes: &Sizes, servers: &Servers) -> Result<Vec<Measurement>> {
    let burst = Burst::of(sizes.orders, sizes.runs);
    let named = |name: &str, what: &str| Burst { name: name.to_owned(), what: what.to_owned(), ..burst.clone() };
    Ok(match part {
        Part::Burst => vec![burst.measure(servers).await?],
        Part::Hot => {
            let hot = named("hot", "the same, one SKU in every order");
            vec![Burst { hot: true, runs: sizes.runs.min(2), ..hot }.measure(servers).await?]
        }
        Part::Paid => {
            let paid = named("paid", "the same, 70 % paid before the deadline");
            vec![
                Burst { paid_percent: 70, beside: Beside::Load, runs: sizes.runs.min(2), ..paid }
                    .measure(servers)
                    .await?,
            ]
        }
        Part::Events => {
            let events = named("events", "the same, a relay sends the events meanwhile");
            vec![Burst { relay: true, beside: Beside::Nothing, runs: 1, ..events }.measure(servers).await?]
        }
        Part::Partitioned => {
            let partitioned = named("partitioned", "the same, tables in 8 hash partitions");
            vec![Burst { partitioned: true, runs: 1, ..partitioned }.measure(servers).await?]
        }
        Part::Single => {
            let mut measured = Vec::new();
            for &shards in sizes.single_shards {
                measured.push(
                    single::measure(servers, sizes.single, if shards == 1 { sizes.runs.min(2) } else { 1 }, shards)
                        .await?,
                );
            }
            measured
        }
        Part::OneByOne => vec![one_by_one(servers, sizes.one_by_one, sizes.runs).await?],
        Part::Steady => flows::steady(servers, 1000, sizes.steady_s).await?,
        Part::Relay => flows::relay(servers, sizes.relay, sizes.runs.min(2)).await?,
        Part::Backlog => {
            let mut measured = vec![backlog::coalesced_memory(servers, sizes.orders).await?];
            measured.extend(backlog::measure(servers, sizes.backlog_orders, sizes.backlog).await?);
            measured
        }
        Part::Gateway => vec![gateway::measure(servers, sizes.gateway, 1).await?],
        Part::Scale => scale(servers, sizes.scale).await?,
        Part::Anatomy => anatomy::measure(servers, sizes.scale, sizes.runs.min(2)).await?,
    })
}

/// A transaction an order, as most write it.
async fn one_by_one(servers: &Servers, orders: u32, runs: usize) -> Result<Measurement> {
    let mut all = Vec::new();
    for _ in 0..runs {
        let stage = Stage::set(servers).await;
        let due = Orders { armed: false, ..Orders::due_at(stage.after(-1.0).await?, orders) };
        stage.seed(due).await?;
        stage.settle_down().await?;
        all.push(Run { rate: Some(limits::one_by_one(&stage, due).await?), ..Run::default() });
        stage.close(None).await?;
    }
    let what = format!("a transaction an order, {} connections", limits::CONNECTIONS);
    Ok(Measurement { name: "one_by_one".to_owned(), what, beside: "", runs: all })
}

async fn scale(servers: &Servers, orders: u32) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for (workers, pipelines) in [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 1)] {
        let burst = Burst {
            name: format!("scale_{workers}_{pipelines}"),
            what: format!("{orders} due at one instant, {workers} workers of {pipelines} pipelines"),
            workers,
            pipelines,
            beside: Beside::Nothing,
            ..Burst::of(orders, 1)
        };
        measurements.push(burst.measure(servers).await?);
    }
    Ok(measurements)
}

/// What is to be reached, for what was measured.
fn goals(measurements: &[Measurement]) -> Vec<Goal> {
    let of = |name: &str| measurements.iter().find(|measurement| measurement.name == name);
    let mut goals = Vec::new();
    if let Some(burst) = of("burst") {
        goals.push(Goal::at_least(0.9, "burst, of the settle limit", burst.ratio()));
        let share = burst.more(bursts::SHARE);
        goals.push(Goal::at_most(15.0, "burst: overdue's own share of the CPU, %", share));
    }
    if let (Some(burst), Some(hot)) = (of("burst"), of("hot")) {
        goals.push(Goal::at_least(0.9, "one hot SKU, of the burst", hot.rate() / burst.rate()));
    }
    if let (Some(burst), Some(partitioned)) = (of("burst"), of("partitioned")) {
        goals.push(Goal::at_least(0.9, "partitioned tables, of the burst", partitioned.rate() / burst.rate()));
    }
    if let (Some(burst), Some(one_by_one)) = (of("burst"), of("one_by_one")) {
        goals.push(Goal::at_least(20.0, "burst, times a transaction an order", burst.rate() / one_by_one.rate()));
    }
    if let Some(single) = of("single") {
        goals.push(Goal::at_least(0.85, "one order a message, of bare consume", single.ratio()));
    }
    if let (Some(steady), Some(alone)) = (of("steady"), of("ttl_alone")) {
        let p99 = |measurement: &Measurement| measurement.median(|run| run.lateness.map(|lateness| lateness.p99_ms));
        goals.push(Goal::at_most(25.0, "steady: p99 of the lateness above TTL alone, ms", p99(steady) - p99(alone)));
    }
    let backlog: Vec<&Measurement> =
        measurements.iter().filter(|measurement| measurement.name.starts_with(backlog::NAME)).collect();
    if let [first, .., last] = backlog[..] {
        goals.push(Goal::at_least(0.9, "burst with the most pending, of that with none", last.rate() / first.rate()));
        goals.push(Goal::at_most(
            100.0,
            "broker memory a pending order, a message each, bytes",
            last.more(backlog::MEMORY),
        ));
    }
    if let Some(coalesced) = of("coalesced_memory") {
        goals.push(Goal::at_most(
            5.0,
            "broker memory a pending order, 256 a message, bytes",
            coalesced.more(backlog::MEMORY),
        ));
    }
    goals
}
