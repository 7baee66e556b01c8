//! Measures Overdue on this machine, beside what its servers can do at best, and writes what it found: a table for people, JSON
//! for programs, plots for eyes. Each run ends with the audit; one that is not clean ends the bench.

mod alternatives;
mod amqp;
mod anatomy;
mod arming;
mod backlog;
mod bursts;
mod calibration;
mod flows;
mod gateway;
mod goals;
mod hops;
mod idle;
mod limits;
mod plots;
mod reads;
mod results;
mod servers;
mod single;
mod stage;
mod timers;
mod webhooks;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;

use crate::alternatives::Scheduler;
use crate::bursts::{Beside, Burst};
use crate::calibration::Calibration;
use crate::flows::Flow;
use crate::goals::goals;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// Measures Overdue beside the limits of its servers. `make bench` starts it with servers of its own.
#[derive(Debug, Parser)]
struct Settings {
    /// Smaller sizes, one run of each: for a first look, not for comparing
    #[arg(long)]
    quick: bool,
    /// Only these parts; those of `make bench-more` run only when they are named
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
    /// Where results go
    #[arg(long, default_value = "bench/results", value_name = "DIRECTORY")]
    out: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the bench starts itself as.
#[derive(Debug, Subcommand)]
enum Role {
    /// Another way to close orders, which the bench measures
    #[command(hide = true)]
    Alternative(Scheduler),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Orders due at one instant
    Burst,
    /// The same with a relay that sends the events meanwhile
    Events,
    /// The same, overdue already when the worker starts
    Cold,
    /// One order a message
    Single,
    /// A transaction an order
    OneByOne,
    /// Orders that come and fall due all the time
    Steady,
    /// The same, due at arbitrary times
    Odd,
    /// The same, all due at one clock time
    ClockTime,
    /// A relay that was down
    CatchUp,
    /// Many clients that arm orders
    Arming,
    /// The outbox while an old transaction is open
    Snapshot,
    /// Timers: due at one instant, and at arbitrary times
    Timers,
    /// Webhooks: many that wait, beside a dead endpoint, and steadily
    Webhooks,
    /// Nothing happens
    Idle,
    /// From the outbox to the confirm (more)
    Relay,
    /// One SKU for all (more)
    Hot,
    /// 70 % paid before (more)
    Paid,
    /// Hash-partitioned tables (more)
    Partitioned,
    /// With many more pending (more)
    Backlog,
    /// With a gateway to be asked (more)
    Gateway,
    /// Workers and pipelines (more)
    Scale,
    /// What each part of a close costs (more)
    Anatomy,
    /// From lane to lane, and inside the broker (more)
    Hops,
    /// Other ways to close orders (more)
    Alternatives,
    /// Looks at orders, with and without a cache (more)
    Reads,
}

impl Part {
    /// Whether it runs without being named.
    fn is_usual(self) -> bool {
        use Part::{Alternatives, Anatomy, Backlog, Gateway, Hops, Hot, Paid, Partitioned, Reads, Relay, Scale};
        let on_demand = matches!(self, Relay | Hot | Paid | Partitioned | Backlog | Gateway | Scale | Anatomy);
        !on_demand && !matches!(self, Hops | Alternatives | Reads)
    }
}

/// How much of everything.
struct Sizes {
    orders: u32,
    /// How often each part is measured: the median counts.
    runs: usize,
    single: u32,
    /// How many shards one order a message is measured with.
    single_shards: &'static [u16],
    backlog_orders: u32,
    one_by_one: u32,
    steady_s: u32,
    /// How long the relay is down.
    down_s: u32,
    relay: u32,
    timers: u32,
    /// Events that wait for an endpoint.
    webhooks: u32,
    /// Those for one that is dead.
    webhooks_dead: u32,
    backlog: &'static [u32],
    gateway: u32,
    scale: u32,
    /// The burst of each of the other ways.
    alternatives: u32,
    /// Orders that are looked at.
    reads: u32,
    /// How long the short flows of the parts on demand last.
    short_s: u32,
}

const FULL: Sizes = Sizes {
    orders: 60_000,
    runs: 3,
    single: 20_000,
    single_shards: &[1],
    backlog_orders: 100_000,
    one_by_one: 6_000,
    steady_s: 20,
    down_s: 60,
    relay: 100_000,
    timers: 100_000,
    webhooks: 60_000,
    webhooks_dead: 100_000,
    backlog: &[0, 100_000, 1_000_000, 3_000_000],
    gateway: 4_000,
    scale: 50_000,
    alternatives: 6_000,
    reads: 1_000_000,
    short_s: 5,
};

const QUICK: Sizes = Sizes {
    orders: 30_000,
    runs: 1,
    single: 20_000,
    backlog_orders: 20_000,
    one_by_one: 2_000,
    steady_s: 10,
    down_s: 20,
    relay: 20_000,
    timers: 30_000,
    webhooks: 10_000,
    webhooks_dead: 30_000,
    backlog: &[0, 50_000],
    gateway: 1_000,
    scale: 20_000,
    alternatives: 4_000,
    reads: 50_000,
    short_s: 4,
    ..FULL
};

#[tokio::main]
async fn main() -> Result<()> {
    let settings = Settings::parse();
    if let Some(Role::Alternative(scheduler)) = settings.role {
        return scheduler.run().await;
    }
    let begun = Instant::now();
    let servers = Servers::local()?;
    let sizes = if settings.quick { QUICK } else { FULL };
    let calibration = Calibration::new();
    let machine = describe(&servers).await?;
    let (mut measurements, mut without_figure) = (Vec::new(), Vec::new());
    for part in Part::value_variants() {
        if settings.only.contains(part) || settings.only.is_empty() && part.is_usual() {
            let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            eprintln!("{:>4} s  {name}", begun.elapsed().as_secs());
            let measured = match measure(*part, &sizes, &servers, &calibration).await {
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

async fn measure(part: Part, sizes: &Sizes, servers: &Servers, calibration: &Calibration) -> Result<Vec<Measurement>> {
    let burst = Burst::of(sizes.orders, sizes.runs);
    let named = |name: &str, what: &str| Burst { name: name.to_owned(), what: what.to_owned(), ..burst.clone() };
    let runs = sizes.runs;
    let one = match part {
        Part::Burst => burst.measure(servers, calibration).await?,
        Part::Hot => {
            let hot = named("hot", "the same, one SKU in every order");
            Burst { hot: true, ..hot }.measure(servers, calibration).await?
        }
        Part::Paid => {
            let paid = named("paid", "the same, 70 % paid before the deadline");
            Burst { paid_percent: 70, beside: Beside::Load, ..paid }.measure(servers, calibration).await?
        }
        Part::Events => {
            let events = named("events", "the same, a relay sends the events meanwhile");
            Burst { relay: true, beside: Beside::Nothing, ..events }.measure(servers, calibration).await?
        }
        Part::Cold => {
            let cold = named("cold", "the same, overdue already when the worker starts");
            Burst { cold: true, beside: Beside::Nothing, ..cold }.measure(servers, calibration).await?
        }
        Part::Partitioned => {
            let partitioned = named("partitioned", "the same, tables in 8 hash partitions");
            Burst { partitioned: true, ..partitioned }.measure(servers, calibration).await?
        }
        Part::Single => {
            let mut measured = Vec::new();
            for &shards in sizes.single_shards {
                measured.push(single::measure(servers, calibration, sizes.single, runs, shards).await?);
            }
            return Ok(measured);
        }
        Part::OneByOne => one_by_one(servers, calibration, sizes.one_by_one, runs).await?,
        Part::Steady => {
            let flow = Flow::steady(1_000, sizes.steady_s);
            let alone = flows::ttl_alone(servers, calibration, runs, 1_000, sizes.steady_s).await?;
            return Ok(vec![flow.measure(servers, calibration, runs).await?, alone]);
        }
        Part::Odd => Flow::odd(300, sizes.steady_s).measure(servers, calibration, runs).await?,
        Part::ClockTime => {
            let flow = Flow::clock_time(300, 2 * sizes.steady_s);
            let all = flow.per_second * flow.seconds;
            let what = format!("{all} orders of one timeout, for comparison");
            let same = Burst { name: "clock_time_burst".to_owned(), what, orders: all, ..burst.clone() };
            let same = Burst { beside: Beside::Nothing, ..same }.measure(servers, calibration).await?;
            return Ok(vec![flow.measure(servers, calibration, runs).await?, same]);
        }
        Part::CatchUp => flows::catch_up(servers, calibration, runs, 500, sizes.down_s).await?,
        Part::Arming => arming::measure(servers, calibration, runs).await?,
        Part::Snapshot => arming::snapshot(servers, calibration, runs, sizes.relay).await?,
        Part::Timers => {
            let at_once = timers::burst(servers, calibration, sizes.timers, runs).await?;
            return Ok(vec![at_once, timers::odd(servers, calibration, 300, sizes.steady_s, runs).await?]);
        }
        Part::Webhooks => {
            let (events, dead) = (sizes.webhooks, sizes.webhooks_dead);
            return Ok(vec![
                webhooks::backlog(servers, calibration, events, 0, runs).await?,
                webhooks::backlog(servers, calibration, events, dead, runs).await?,
                webhooks::steady(servers, calibration, 100, sizes.steady_s, runs).await?,
            ]);
        }
        Part::Idle => idle::measure(servers, calibration, runs).await?,
        Part::Relay => return flows::relay(servers, calibration, runs, sizes.relay).await,
        Part::Backlog => {
            let mut measured = vec![backlog::coalesced_memory(servers, sizes.orders).await?];
            measured.extend(backlog::measure(servers, sizes.backlog_orders, sizes.backlog).await?);
            return Ok(measured);
        }
        Part::Gateway => gateway::measure(servers, calibration, sizes.gateway, runs).await?,
        Part::Scale => return scale(servers, calibration, sizes.scale, runs).await,
        Part::Hops => return hops::measure(servers, calibration, runs, sizes.short_s).await,
        Part::Alternatives => {
            let (burst, seconds) = (sizes.alternatives, sizes.short_s);
            return alternatives::measure(servers, calibration, runs, burst, seconds).await;
        }
        Part::Reads => return reads::measure(servers, calibration, runs, sizes.reads, sizes.short_s).await,
        Part::Anatomy => return anatomy::measure(servers, sizes.scale, runs).await,
    };
    Ok(vec![one])
}

/// A transaction an order, as most write it.
async fn one_by_one(servers: &Servers, calibration: &Calibration, orders: u32, runs: usize) -> Result<Measurement> {
    let run = async || {
        let stage = Stage::set(servers).await;
        let due = Orders { armed: false, ..Orders::due_at(stage.after(-1.0).await?, orders) };
        stage.seed(due).await?;
        stage.settle_down().await?;
        let run = Run { rate: Some(limits::one_by_one(&stage, due).await?), ..Run::default() };
        stage.close(None).await?;
        Ok(run)
    };
    let all = calibration.repeat(runs, run).await?;
    let what = format!("a transaction an order, {} connections", limits::CONNECTIONS);
    Ok(Measurement { name: "one_by_one".to_owned(), what, beside: "", runs: all })
}

async fn scale(servers: &Servers, calibration: &Calibration, orders: u32, runs: usize) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for (workers, pipelines) in [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 1)] {
        let burst = Burst {
            name: format!("scale_{workers}_{pipelines}"),
            what: format!("{orders} due at one instant, {workers} workers of {pipelines} pipelines"),
            workers,
            pipelines,
            beside: Beside::Nothing,
            ..Burst::of(orders, runs)
        };
        measurements.push(burst.measure(servers, calibration).await?);
    }
    Ok(measurements)
}
