use clap::{Args, ValueEnum};
use database::answer_timeout;
use order::{COALESCE_WINDOW, Lanes};
use relay::RelaySettings;
use worker::{PipelineSettings, SweepSettings};

use super::parse::{Human, duration, positive_up_to_a_day, up_to_a_day};
use super::{BrokerSettings, DatabaseSettings, GatewaySettings, TimerSettings, WebhookSettings};
use crate::failure::Failure;

/// What the roles work with and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleSettings {
    #[command(flatten)]
    pub(crate) database: DatabaseSettings,
    #[command(flatten)]
    pub(crate) broker: BrokerSettings,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
    #[command(flatten)]
    pub(crate) gateways: GatewaySettings,
    #[command(flatten)]
    pub(crate) timers: TimerSettings,
    #[command(flatten)]
    pub(crate) webhooks: WebhookSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends the outbox to RabbitMQ
    Relay,
    /// Closes orders, and fires timers, that are due
    Worker,
    /// Closes overdue orders, and fires timers, whose message never arrived; one process at a time, the others stand by
    Sweep,
    /// Delivers events to endpoints over HTTP
    Webhooks,
    /// Serves orders and timers over HTTP
    Api,
    /// Serves the pages for whoever is on call
    Console,
}

/// Bounds and sizes; the defaults suit one machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct Tuning {
    /// Worker: how many pipelines run side by side, each with a connection to broker and database
    #[arg(long, env = "OVERDUE_PIPELINES", default_value_t = default_pipelines(), value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT")]
    pub(crate) pipelines: u16,
    /// Orders due within this time of each other may share a message. Each is held until its own deadline
    #[arg(long, env = "OVERDUE_COALESCE_WINDOW", default_value_t = Human(COALESCE_WINDOW), value_parser = duration, value_name = "DURATION")]
    coalesce_window: Human,
    /// Relay: what events call their source, a URI reference; another for each deployment
    #[arg(long, env = "OVERDUE_EVENT_SOURCE", default_value_t = RelaySettings::default().event_source, value_parser = event_source, value_name = "URI")]
    event_source: String,
    /// Sweep: how long it rests between two rounds, varied at random by half of itself
    #[arg(long, env = "OVERDUE_SWEEP_EVERY", default_value_t = Human(SweepSettings::default().every), value_parser = positive_up_to_a_day, value_name = "DURATION")]
    sweep_every: Human,
    /// Sweep: how long after its deadline an order is left to its message
    #[arg(long, env = "OVERDUE_SWEEP_GRACE", default_value_t = Human(SweepSettings::default().grace), value_parser = up_to_a_day, value_name = "DURATION")]
    sweep_grace: Human,
    /// Worker: a batch is settled when it has this many orders, or no more messages have arrived
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_orders_max: Option<u32>,
    /// Worker: how many messages the broker may send ahead to a pipeline
    #[arg(long, hide = true, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch_messages: Option<u16>,
    /// Relay: when a claim is void and another relay may send its orders; longer than the confirm timeout
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    claim_lease: Option<Human>,
    /// Webhooks: how often an endpoint is tried that was given up
    #[arg(long, hide = true, value_parser = positive_up_to_a_day)]
    pub(crate) probe_every: Option<Human>,
}

impl RoleSettings {
    /// Settings that fit their types but not each other.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let (lease, confirm) = (Human(self.relay().lease), Human(self.broker.confirm_timeout()));
        if lease.0 <= confirm.0 {
            return Err(Failure::settings(format!(
                "--claim-lease ({lease}) must be longer than --confirm-timeout ({confirm}), or two relays send the same orders again and again"
            )));
        }
        let window = self.tuning.coalesce_window;
        if window.0 > Lanes::MARGIN {
            return Err(Failure::settings(format!(
                "--coalesce-window (OVERDUE_COALESCE_WINDOW) is {window} and must not exceed {}: orders would be held in memory for that much longer",
                Human(Lanes::MARGIN)
            )));
        }
        Ok(())
    }

    pub(crate) fn relay(&self) -> RelaySettings {
        let usual = RelaySettings::default();
        RelaySettings {
            window: self.tuning.coalesce_window.0,
            event_source: self.tuning.event_source.clone(),
            confirm_timeout: self.broker.confirm_timeout(),
            lease: self.tuning.claim_lease.map_or(usual.lease, |lease| lease.0),
            answer_timeout: answer_timeout(self.database.statement_timeout.0),
            ..usual
        }
    }

    pub(crate) fn pipelines(&self) -> PipelineSettings {
        let (tuning, usual) = (&self.tuning, PipelineSettings::default());
        PipelineSettings {
            pipelines: tuning.pipelines.into(),
            batch_orders_max: tuning.batch_orders_max.map_or(usual.batch_orders_max, |orders| orders as usize),
            prefetch_messages: tuning.prefetch_messages.unwrap_or(usual.prefetch_messages),
            confirm_timeout: self.broker.confirm_timeout(),
            window: tuning.coalesce_window.0,
            ..usual
        }
    }

    pub(crate) fn sweep(&self) -> SweepSettings {
        let Tuning { sweep_every, sweep_grace, .. } = self.tuning;
        let keep_timers = self.timers.keep_timers.0;
        SweepSettings { every: sweep_every.0, grace: sweep_grace.0, keep_timers, ..SweepSettings::default() }
    }
}

fn default_pipelines() -> u16 {
    PipelineSettings::default().pipelines.try_into().unwrap_or(u16::MAX)
}

fn event_source(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("it must have 1 to 200 visible ASCII characters".to_owned()) }
}
