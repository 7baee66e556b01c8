//! What the sweep does in a round about timers.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use book::{Actor, BookError, PageRequest};
use order::{Attempts, TimerId};
use tokio_util::sync::CancellationToken;

use crate::handler::Context;
use crate::metrics::WorkerMetrics;
use crate::outcome::Outcome;
use crate::patience::Patience;
use crate::rounds::{PATIENCE, Unfinished};
use crate::stuck::Stuck;
use crate::timers::SharedTimers;

/// Rounds over all timers that are armed past their time.
pub(crate) struct TimerRounds {
    timers: SharedTimers,
    context: Context,
    metrics: WorkerMetrics,
    stuck: Stuck<TimerId>,
    /// How long timers are kept that fired or were cancelled.
    kept_for: Duration,
}

/// How many timers are deleted at a time, and in a round at most.
const DELETED_TOGETHER: usize = 1_000;
const DELETED_MAX: usize = 100_000;

impl TimerRounds {
    pub(crate) fn new(
        timers: SharedTimers,
        kept_for: Duration,
        metrics: WorkerMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        let patience = Patience::endless(shutdown, metrics.waits.clone());
        let context = Context { by: Actor::on_timeout("sweep"), trace: None, patience };
        Self { timers, context, metrics, stuck: Stuck::default(), kept_for }
    }

    /// Fires every timer that was due longer ago than the grace, and deletes those that ended long ago. Before each page, `leads`
    /// makes sure that no other process sweeps.
    pub(crate) async fn round<F: Future<Output = Result<(), BookError>>>(
        &mut self,
        grace: Duration,
        timers_max: usize,
        leads: impl Fn() -> F,
    ) -> Result<(), Unfinished> {
        let (mut after, mut seen) = (None, HashSet::new());
        loop {
            leads().await.map_err(Unfinished::LeadLost)?;
            let page = PageRequest { grace, after, orders_max: timers_max };
            let patience = self.context.patience.lasting(PATIENCE);
            let look_up = || self.timers.timers.overdue(&page);
            let page = patience.until("timers past their time cannot be looked up", |_| false, look_up).await?;
            let Ok(page) = page else { return Ok(()) };
            let now = Instant::now();
            let due = page.ids.iter().filter(|id| self.stuck.is_due(id, now));
            let due: BTreeMap<TimerId, Attempts> = due.map(|id| (id.clone(), Attempts::default())).collect();
            let context = Context { patience, ..self.context.clone() };
            let settled = self.timers.fire(&due, &context).await?;
            self.take_stock(settled.outcomes.iter());
            seen.extend(page.ids);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.stuck.keep(&seen);
        self.metrics.sweep_stuck_timers.set(i64::try_from(self.stuck.len()).unwrap_or(i64::MAX));
        if let Some(example) = self.stuck.example() {
            let timers = self.stuck.len();
            tracing::warn!(timers, %example, "timers are past their time and cannot be fired; `overdue timer show` tells more of one");
        }
        self.delete_ended(leads).await
    }

    async fn delete_ended<F: Future<Output = Result<(), BookError>>>(
        &self,
        leads: impl Fn() -> F,
    ) -> Result<(), Unfinished> {
        for _ in 0..DELETED_MAX / DELETED_TOGETHER {
            let patience = self.context.patience.lasting(PATIENCE);
            let delete = || self.timers.timers.delete_ended(self.kept_for, DELETED_TOGETHER);
            let is_answer = |error: &BookError| !matches!(error, BookError::Away(_));
            match patience.until("old timers cannot be deleted", is_answer, delete).await? {
                Ok(DELETED_TOGETHER) => leads().await.map_err(Unfinished::LeadLost)?,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old timers cannot be deleted");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Counts timers that were rescued, and remembers those that could not be fired.
    fn take_stock<'a>(&mut self, outcomes: impl Iterator<Item = (&'a TimerId, &'a Outcome)>) {
        let (mut rescued, now) = (0, Instant::now());
        for (id, outcome) in outcomes {
            match outcome {
                Outcome::Fired => {
                    rescued += 1;
                    self.stuck.settled(id);
                }
                Outcome::Unchanged | Outcome::Waiting(_) => self.stuck.settled(id),
                _ => self.stuck.put_off(id, now),
            }
        }
        self.metrics.timers_rescued.inc_by(rescued);
        if rescued > 0 {
            tracing::warn!(timers = rescued, "the sweep has fired timers that no message brought in time");
        }
    }
}
