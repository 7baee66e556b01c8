//! The second way to the same close: the sweep looks for orders in the book that are past their deadline. Each of them has
//! been missed by its message.

use std::time::Duration;

use book::Lead;
use database::Client;
use tokio_util::sync::CancellationToken;

use crate::gateways::Gateways;
use crate::metrics::WorkerMetrics;
use crate::rounds::{Rounds, Unfinished};
use crate::shared_book::SharedBook;

/// How the sweep works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepSettings {
    /// How long it rests between two rounds, varied at random by half of itself.
    pub every: Duration,
    /// How long after its deadline an order is left to its message.
    pub grace: Duration,
    /// How many orders are read at a time.
    pub page_orders: usize,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), grace: Duration::from_secs(60), page_orders: 1024 }
    }
}

/// Closes overdue orders whose message never arrived, one process at a time. It needs no broker.
pub struct Sweep {
    /// Where the lead is held.
    client: Client,
    rounds: Rounds,
    settings: SweepSettings,
    metrics: WorkerMetrics,
    shutdown: CancellationToken,
}

impl Sweep {
    /// A sweep of this book that has not begun. Which process sweeps is decided in the database of `client`.
    #[must_use]
    pub fn new(
        book: SharedBook,
        client: Client,
        gateways: &Gateways,
        settings: SweepSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let rounds = Rounds::new(book, gateways, shutdown.clone());
        Self { client, rounds, settings, metrics: gateways.metrics(), shutdown }
    }

    /// Works until told to stop. While another process sweeps it waits to take over. A book that cannot tell which orders
    /// are overdue has no sweep: then it only waits to be told to stop.
    pub async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            match Lead::take(&self.client).await {
                Ok(Some(lead)) => {
                    tracing::info!("sweeping: no other process does");
                    self.metrics.sweep_leader.set(1);
                    let has_sweep = self.lead(&lead).await;
                    self.metrics.sweep_leader.set(0);
                    if !has_sweep {
                        tracing::warn!("no sweep: this order book cannot tell which orders are overdue");
                        return self.shutdown.cancelled().await;
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot find out whether another process sweeps"),
            }
            self.rest().await;
        }
    }

    /// Round after round, until the lead is lost. `false`: this book has no sweep.
    async fn lead(&mut self, lead: &Lead) -> bool {
        let SweepSettings { grace, page_orders, .. } = self.settings;
        while !self.shutdown.is_cancelled() {
            match self.rounds.round(grace, page_orders, || lead.check()).await {
                Ok(()) => {
                    self.metrics.sweep_rounds.inc();
                }
                Err(Unfinished::Interrupted) => {}
                Err(Unfinished::LeadLost(error)) => {
                    tracing::warn!(%error, "the sweep has lost its connection, and with it the lead");
                    return true;
                }
                Err(Unfinished::NoPages) => return false,
            }
            self.rest().await;
        }
        true
    }

    async fn rest(&self) {
        tokio::select! {
            () = tokio::time::sleep(retry::varied(self.settings.every)) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}
