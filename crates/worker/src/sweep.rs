//! The second way to the same close: the sweep looks for orders in the book that are past their deadline, and for timers past
//! their time. Each of them has been missed by its message.

use std::time::Duration;

use book::Lead;
use database::Client;
use tokio_util::sync::CancellationToken;

use crate::gateways::Gateways;
use crate::metrics::WorkerMetrics;
use crate::rounds::{Rounds, Unfinished};
use crate::shared_book::SharedBook;
use crate::timer_rounds::TimerRounds;
use crate::timers::SharedTimers;

/// How the sweep works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepSettings {
    /// How long it rests between two rounds, varied at random by half of itself.
    pub every: Duration,
    /// How long after its deadline an order is left to its message.
    pub grace: Duration,
    /// How many orders, or timers, are read at a time.
    pub page_orders: usize,
    /// How long timers are kept that fired or were cancelled.
    pub keep_timers: Duration,
}

impl Default for SweepSettings {
    fn default() -> Self {
        let (every, grace) = (Duration::from_secs(30), Duration::from_secs(60));
        Self { every, grace, page_orders: 1024, keep_timers: Duration::from_hours(30 * 24) }
    }
}

/// Closes overdue orders, and fires timers, whose message never arrived, one process at a time. It needs no broker.
pub struct Sweep {
    /// Where the lead is held.
    client: Client,
    /// `None`: the order book cannot tell which orders are overdue.
    rounds: Option<Rounds>,
    timer_rounds: TimerRounds,
    settings: SweepSettings,
    metrics: WorkerMetrics,
    shutdown: CancellationToken,
}

impl Sweep {
    /// A sweep of this book and these timers that has not begun. Which process sweeps is decided in the database of `client`.
    #[must_use]
    pub fn new(
        book: SharedBook,
        timers: SharedTimers,
        client: Client,
        gateways: &Gateways,
        settings: SweepSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let metrics = gateways.metrics();
        let rounds = Some(Rounds::new(book, gateways, shutdown.clone()));
        let timer_rounds = TimerRounds::new(timers, settings.keep_timers, metrics.clone(), shutdown.clone());
        Self { client, rounds, timer_rounds, settings, metrics, shutdown }
    }

    /// Works until told to stop. While another process sweeps it waits to take over.
    pub async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            match Lead::take(&self.client).await {
                Ok(Some(lead)) => {
                    tracing::info!("sweeping: no other process does");
                    self.metrics.sweep_leader.set(1);
                    self.lead(&lead).await;
                    self.metrics.sweep_leader.set(0);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot find out whether another process sweeps"),
            }
            self.rest().await;
        }
    }

    /// Round after round, until the lead is lost.
    async fn lead(&mut self, lead: &Lead) {
        while !self.shutdown.is_cancelled() {
            match self.round(lead).await {
                Ok(()) => drop(self.metrics.sweep_rounds.inc()),
                Err(Unfinished::LeadLost(error)) => {
                    tracing::warn!(%error, "the sweep has lost its connection, and with it the lead");
                    return;
                }
                Err(Unfinished::Interrupted | Unfinished::NoPages) => {}
            }
            self.rest().await;
        }
    }

    /// Orders and timers beside each other: trouble with the ones holds up none of the others.
    async fn round(&mut self, lead: &Lead) -> Result<(), Unfinished> {
        let SweepSettings { grace, page_orders, .. } = self.settings;
        let orders = async {
            match &mut self.rounds {
                Some(rounds) => rounds.round(grace, page_orders, || lead.check()).await,
                None => Ok(()),
            }
        };
        let timers = self.timer_rounds.round(grace, page_orders, || lead.check());
        let (orders, timers) = tokio::join!(orders, timers);
        if matches!(orders, Err(Unfinished::NoPages)) {
            tracing::warn!("no sweep of orders: this order book cannot tell which are overdue");
            self.rounds = None;
        }
        timers.and(orders)
    }

    async fn rest(&self) {
        tokio::select! {
            () = tokio::time::sleep(retry::varied(self.settings.every)) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}
