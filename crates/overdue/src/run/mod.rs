//! `overdue run`: the roles of a process, from start to stop.

mod checks;
mod heartbeat;
mod http;
mod report;
mod roles;
mod samples;
mod tidy;

use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::settings::{HttpSettings, Human, LaneSettings, Role, RoleSettings, gone, positive};

pub(crate) use self::roles::Roles;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    roles: RoleSettings,
    #[command(flatten)]
    lanes: LaneSettings,
    #[command(flatten)]
    http: HttpSettings,
    /// The roles to run, where not all; `api` and `console` need `--listen`
    #[arg(long, env = "OVERDUE_ONLY", value_delimiter = ',', value_name = "ROLE,...")]
    only: Vec<Role>,
    /// After SIGTERM or SIGINT: how long the roles may take to finish what they have in hand
    #[arg(long, env = "OVERDUE_SHUTDOWN_TIMEOUT", default_value_t = Human(SHUTDOWN_TIMEOUT), value_parser = positive, value_name = "DURATION")]
    shutdown_timeout: Human,
    /// How often to log what was done, if anything was
    #[arg(long, hide = true, default_value_t = Human(REPORT_EVERY), value_parser = positive)]
    report_every: Human,
}

/// How long the roles may take to finish what they have in hand.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// How often the process logs what was done, if anything was.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    for variable in gone() {
        tracing::warn!(variable, "this variable has no effect any more; docs/operations.md has those that have");
    }
    args.roles.check()?;
    let shutdown = CancellationToken::new();
    watch_signals(&shutdown)?;
    let mut roles = Roles::start(&args.only, &args.roles, &args.http, &args.lanes, &shutdown).await?;
    tracing::info!(roles = ?roles.names, gateways = ?roles.gateways, pid = std::process::id(), "running");
    roles.finish(&shutdown, args.shutdown_timeout.0, args.report_every.0).await
}

/// The first signal asks the roles to stop; the second ends the process at once.
fn watch_signals(shutdown: &CancellationToken) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| anyhow!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut told = None;
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            // Some programs signal a process and then its group: that is one wish, not two.
            if told.is_some_and(|told: Instant| told.elapsed() < Duration::from_millis(300)) {
                continue;
            }
            told = Some(Instant::now());
            // First the deed, then the word: the reader of the log may be gone.
            if shutdown.is_cancelled() {
                tracing::warn!("told to stop twice: ending at once; unfinished messages come again");
                std::process::exit(code);
            }
            shutdown.cancel();
            tracing::info!("told to stop: finishing what is in hand");
        }
    });
    Ok(())
}
