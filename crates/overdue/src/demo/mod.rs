//! `overdue demo`: a shop is played, with all roles in this process, and the books are compared in the end.

mod customer;
mod gateway;
mod play;
mod progress;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use database::Purpose;
use tokio_util::sync::CancellationToken;
use worker::{OutcomeKind, WorkerMetrics};

use self::gateway::DemoGateway;
use self::play::{CONNECTIONS, Play};
use self::summary::{Played, compare, compare_hooks, print_summary, tell_of_timers};
use crate::commands::audit;
use crate::failure::Failure;
use crate::output::print;
use crate::run::{REPORT_EVERY, Roles, SHUTDOWN_TIMEOUT};
use crate::servers;
use crate::settings::{
    BrokerSettings, DatabaseSettings, HttpSettings, LaneSettings, RoleSettings, TimerSettings, WebhookSettings,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    broker: BrokerSettings,
    /// How many orders
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orders: u32,
    /// The simulator of a payment gateway; usually the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    gateway_sim: Option<PathBuf>,
    /// Over how many SKUs
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    skus: u32,
    /// Also where a server is not on this machine
    #[arg(long)]
    anywhere: bool,
}

/// How late a close may be, for the audit.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    if !args.anywhere {
        refuse_elsewhere(args)?;
    }
    let lane_settings = LaneSettings::of(play::timeouts());
    let lanes = lane_settings.lanes();
    database::migrate(&mut *servers::database(&args.database).await?).await?;
    let server = servers::broker(&args.broker, "demo").await?;
    let gateway = match args.gateway_sim.clone().or_else(gateway::beside_us) {
        Some(program) => Some(DemoGateway::start(&program).await?),
        None => {
            print("there is no overdue-gateway-sim beside this program, so no order is paid at a gateway");
            None
        }
    };
    let (tuning, gateways) = gateway::settings(gateway.as_ref())?;
    let (database, broker, timers) = (args.database.clone(), args.broker.clone(), TimerSettings::default());
    let webhooks = gateway.as_ref().map(DemoGateway::endpoints).transpose()?;
    let webhooks = WebhookSettings { webhooks };
    broker::declare(&webhooks.topology(&lanes)?, &server).await?;
    let settings = RoleSettings { database, broker, tuning, gateways, timers, webhooks };
    let shutdown = CancellationToken::new();
    let mut roles = Roles::start(&[], &settings, &HttpSettings::default(), &lane_settings, &shutdown).await?;
    let pool = servers::pool(&args.database, CONNECTIONS, Purpose::Shop)?;
    let play = Play::open(pool, gateway, args.orders, args.skus).await?;
    let before = play.stock().await?;
    let played = play.play(args.orders).await?;
    let after = play.stock().await?;
    play.until_reminders_have_arrived().await?;
    shutdown.cancel();
    roles.finish(&shutdown, SHUTDOWN_TIMEOUT, REPORT_EVERY).await?;

    let summary = shop::summary(&mut *play.pool.get().await?, &play.prefix).await?;
    print_summary(&played, &summary, before, after);
    let timers = shop::timer_summary(&mut *play.pool.get().await?, &play.prefix).await?;
    tell_of_timers(&timers);
    if let Some(gateway) = &play.gateway {
        compare_hooks(&gateway.hooks().await?, &timers)?;
    }
    if let Some(worker) = &roles.worker {
        tell_of_worker(worker, &play, &played).await?;
    }
    let books = book::audit(&servers::client(&args.database, 1, Purpose::Report)?, GRACE).await?;
    print(format_args!("\naudit\n{}", audit::table(&books)));
    if summary.counts.pending > 0 {
        return Err(Failure::negative(format!("{} orders are still pending", summary.counts.pending)));
    }
    if timers.armed > 0 {
        return Err(Failure::negative(format!("{} timers are still armed", timers.armed)));
    }
    audit::verdict(&books)?;
    print("every order is settled and the books are clean");
    Ok(())
}

/// The demo writes thousands of orders: not into a real database by mistake.
fn refuse_elsewhere(args: &Args) -> Result<(), Failure> {
    let (database, broker) = (args.database.url()?, servers::unprobed_broker(&args.broker, "demo")?);
    let elsewhere = [(database.is_local(), database.address()), (broker.is_local(), broker.address().to_owned())];
    match elsewhere.into_iter().find(|(is_local, _)| !is_local) {
        None => Ok(()),
        Some((_, address)) => Err(Failure::settings(format!(
            "{address} is not this machine; the demo writes thousands of orders: give --anywhere if that is what you want"
        ))),
    }
}

async fn tell_of_worker(worker: &WorkerMetrics, play: &Play, played: &Played) -> Result<(), Failure> {
    print(format_args!(
        "worker: {} orders in {} batches, {} came early and waited on",
        worker.orders_seen(),
        worker.batches.get(),
        worker.orders(OutcomeKind::Waiting)
    ));
    let Some(gateway) = &play.gateway else { return Ok(()) };
    print(format_args!(
        "WeChat Pay and Alipay: {} calls, at most {} at a time; {} orders found paid, {} payments too late or twice, {} refunded",
        worker.gateway_calls.get(),
        worker.gateway_calls_in_flight_max.get(),
        worker.orders(OutcomeKind::Paid),
        worker.orders(OutcomeKind::LatePayment),
        worker.refunds_arrived.get()
    ));
    compare(&gateway.ledger().await?, played)
}
