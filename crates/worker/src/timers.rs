//! Timers that are due: loaded, decided, fired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use book::{Actor, BookError, Fired, Firing, ItemReply, Reply, ServerTime, TimerCommand, Timers};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use order::{Attempts, ParkReason, RetryReason, TimeoutId, TimerDecision, TimerFacts, TimerId, decide_timer};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use trace::{Throttle, TraceParent};
use tracing::Span;

use crate::evidence::{Evidence, Ready};
use crate::handler::{Context, Handler};
use crate::metrics::WorkerMetrics;
use crate::outcome::{Outcome, Settled, When};
use crate::patience::{Interrupted, Patience};
use crate::plan::UnknownOrders;
use crate::writer::Calls;

/// The timers as all parts of a process share them that fire some, and what their calls have shown. Copies share what they know.
#[derive(Clone)]
pub struct SharedTimers {
    pub(crate) timers: Timers,
    loads: Evidence<TimerId>,
    writes: Evidence<TimerId>,
    commands: Evidence<TimerId>,
    warnings: Throttle,
    /// The kinds that are expected; `None`: all are.
    expected: Option<Arc<BTreeSet<String>>>,
    metrics: WorkerMetrics,
    patience: Patience,
    /// For those that are fired because a request asks for it.
    permits: Arc<Semaphore>,
}

/// What is known while timers are fired.
struct Progress<'a> {
    due: &'a BTreeMap<TimerId, Attempts>,
    settled: Settled<TimerId>,
    /// Timers of the next round.
    open: Vec<TimerId>,
}

/// How many timers may be under way that requests ask for. More are left to their messages.
const IN_FLIGHT_MAX: usize = 16;

/// How long one may be under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a timer may be found changed between load and fire before it is left alone for a while.
const ROUNDS_MAX: u32 = 4;

impl SharedTimers {
    /// These timers, of the kinds that are expected (`None`: of every kind), fired until `shutdown`.
    #[must_use]
    pub fn new(
        timers: Timers,
        expected: Option<BTreeSet<String>>,
        metrics: WorkerMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            patience: Patience::endless(shutdown, metrics.waits.clone()),
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            timers,
            loads: Evidence::default(),
            writes: Evidence::default(),
            commands: Evidence::default(),
            warnings: Throttle::default(),
            expected: expected.map(Arc::new),
            metrics,
        }
    }

    /// The same, through other connections.
    #[must_use]
    pub fn through(&self, timers: Timers) -> Self {
        Self { timers, ..self.clone() }
    }

    /// Fires this timer if it is due, and waits for that, but not longer than `wait`; then it goes on by itself. How it stands
    /// afterwards is for the caller to look up: what this does not do, its message does.
    pub async fn fire_now(&self, id: &TimerId, wait: Duration) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let due = BTreeMap::from([(id.clone(), Attempts::default())]);
        let context = Context {
            by: Actor::on_timeout("api"),
            trace: trace::onward(&Span::current(), &[]),
            patience: self.patience.lasting(PATIENCE),
        };
        let timers = self.clone();
        let firing = tokio::spawn(async move {
            let _ = timers.fire(&due, &context).await;
            drop(permit);
        });
        let _ = tokio::time::timeout(wait, firing).await;
    }

    /// Fires those of these timers that are due, until the outcome of each is known.
    pub(crate) async fn fire(
        &self,
        due: &BTreeMap<TimerId, Attempts>,
        context: &Context,
    ) -> Result<Settled<TimerId>, Interrupted> {
        let mut progress = Progress::new(due);
        let (patience, trace) = (&context.patience, context.trace.as_ref());
        for _ in 0..ROUNDS_MAX {
            if progress.open.is_empty() {
                break;
            }
            let open = std::mem::take(&mut progress.open);
            let loads = self.calls(&self.loads, patience, "timers cannot be looked up");
            let load = |part| self.timers.load(part).boxed();
            let loaded = loads.in_parts(&open, progress.settled.time, load).await?;
            progress.settled.time = loaded.time;
            let now = loaded.time.now();
            let mut firings = progress.decide(loaded, now);
            for Firing { id, .. } in firings.extract_if(.., |firing| !self.is_expected(&firing.id)) {
                let detail = format!("timers of the kind {} are not expected here", id.kind());
                progress.end(&id, Outcome::Parked { reason: ParkReason::UnexpectedTimer, detail });
            }
            let writes = self.calls(&self.writes, patience, "timers cannot be fired");
            let fire = |part| self.timers.fire(part, trace).boxed();
            let fired = writes.in_parts(&firings, progress.settled.time, fire).await?;
            for (id, item) in fired.items {
                if let ItemReply::Done(Fired { lateness }) = &item {
                    self.metrics.fired_late(id.kind(), *lateness);
                }
                progress.take(id, item, now, |_| Some(Outcome::Fired));
            }
        }
        let now = progress.settled.time.now();
        for id in std::mem::take(&mut progress.open) {
            let outcome =
                Outcome::look_again_when_free(progress.attempts(&id), "it changes at each look".to_owned(), now);
            progress.end(&id, outcome);
        }
        self.report(&progress.settled);
        self.metrics.count_timers(progress.settled.outcomes.values());
        Ok(progress.settled)
    }

    /// Whether timers of this kind are expected.
    #[must_use]
    pub fn is_expected(&self, id: &TimerId) -> bool {
        self.expected.as_ref().is_none_or(|kinds| kinds.contains(id.kind()))
    }

    /// Does what commands say. The reply has an item for each.
    pub(crate) async fn command(
        &self,
        commands: &[TimerCommand],
        trace: Option<&TraceParent>,
        patience: &Patience,
    ) -> Result<Reply<(), TimerId>, Interrupted> {
        let calls = self.calls(&self.commands, patience, "commands to arm and cancel timers are not taken");
        let known = ServerTime::from(OffsetDateTime::now_utc());
        calls.in_parts(commands, known, |part| self.timers.command(part, trace).boxed()).await
    }

    /// Waits until commands can be done.
    pub(crate) async fn wait_for_commands(&self, patience: &Patience) -> Result<(), Interrupted> {
        let trouble = "commands to arm and cancel timers are not taken";
        patience.until(trouble, |_| false, || self.timers.ready_for_commands()).await.map(drop)
    }

    /// What keeps every timer from being fired, and for how long it has; `None`: nothing that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<(String, Duration)> {
        let known = [&self.writes, &self.loads, &self.commands].into_iter().find_map(Evidence::trouble);
        known.map(|trouble| (trouble.text, trouble.since.elapsed()))
    }

    fn calls<'a>(
        &'a self,
        evidence: &'a Evidence<TimerId>,
        patience: &'a Patience,
        trouble: &'static str,
    ) -> Calls<'a, TimerId> {
        Calls { to: self, warnings: &self.warnings, evidence, patience, trouble }
    }

    fn report(&self, settled: &Settled<TimerId>) {
        let mut parked: BTreeMap<ParkReason, Vec<(&TimerId, &String)>> = BTreeMap::new();
        for (id, outcome) in &settled.outcomes {
            if let Outcome::Parked { reason, detail } = outcome {
                parked.entry(*reason).or_default().push((id, detail));
            }
        }
        for (reason, timers) in parked {
            let (example, detail) = timers[0];
            tracing::error!(timers = timers.len(), %example, %reason, detail, "timers are parked; a person must look at them");
        }
    }
}

impl Ready for SharedTimers {
    fn ready(&self) -> BoxFuture<'_, Result<ServerTime, BookError>> {
        self.timers.ready().boxed()
    }
}

#[async_trait]
impl Handler for SharedTimers {
    async fn handle(
        &self,
        due: &BTreeMap<TimeoutId, Attempts>,
        context: &Context,
    ) -> Result<Settled<TimeoutId>, Interrupted> {
        // There is no other in the queues of timers.
        let timers = due.iter().filter_map(|(id, attempts)| Some((id.timer()?.clone(), attempts.clone())));
        Ok(Settled::of(self.fire(&timers.collect(), context).await?))
    }

    async fn is_ready(&self, patience: &Patience) -> Result<Option<ServerTime>, Interrupted> {
        self.writes.wait_until_ready(self, patience, "timers cannot be fired").await
    }

    fn closed_for(&self) -> Option<Duration> {
        self.writes.closed_for()
    }
}

impl<'a> Progress<'a> {
    fn new(due: &'a BTreeMap<TimerId, Attempts>) -> Self {
        // Until the database has told its time, that of this machine.
        let settled = Settled::new(due.len(), ServerTime::from(OffsetDateTime::now_utc()));
        Self { due, settled, open: due.keys().cloned().collect() }
    }

    fn attempts(&self, id: &TimerId) -> &'a Attempts {
        static NONE: Attempts = Attempts { made: 0, history: Vec::new() };
        self.due.get(id).unwrap_or(&NONE)
    }

    fn end(&mut self, id: &TimerId, outcome: Outcome) {
        self.settled.outcomes.insert(id.clone(), outcome);
    }

    /// Those that are to fire, in the order of their names.
    fn decide(&mut self, loaded: Reply<TimerFacts, TimerId>, now: OffsetDateTime) -> Vec<Firing> {
        let mut firings = Vec::new();
        for (id, item) in loaded.items {
            let facts = match item {
                ItemReply::Done(facts) => Some(facts),
                ItemReply::Unknown => None,
                item => {
                    self.take(id, item, now, |_| None);
                    continue;
                }
            };
            match (decide_timer(facts.as_ref(), now), facts) {
                (TimerDecision::Fire, Some(TimerFacts { due, revision, .. })) => {
                    firings.push(Firing { id, due, revision });
                }
                (TimerDecision::Wait(due), _) => self.end(&id, Outcome::Waiting(due)),
                (TimerDecision::Unknown, _) => {
                    let outcome = unknown(self.attempts(&id), now);
                    self.end(&id, outcome);
                }
                _ => self.end(&id, Outcome::Unchanged),
            }
        }
        firings.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        firings
    }

    /// What the database has replied about a timer.
    fn take<R>(
        &mut self,
        id: TimerId,
        item: ItemReply<R>,
        now: OffsetDateTime,
        outcome: impl FnOnce(R) -> Option<Outcome>,
    ) {
        let outcome = Outcome::of(item, self.attempts(&id), now, outcome);
        match outcome {
            Some(outcome) => drop(self.settled.outcomes.insert(id, outcome)),
            None => self.open.push(id),
        }
    }
}

/// A message that somebody has sent past the database may have been faster than its commit.
fn unknown(attempts: &Attempts, now: OffsetDateTime) -> Outcome {
    let UnknownOrders { attempts_max, back_off } = UnknownOrders::default();
    let attempts = attempts.clone().plus(now, &RetryReason::UnknownTimer);
    if attempts.made >= attempts_max {
        let detail = "the database has no such timer".to_owned();
        return Outcome::Parked { reason: ParkReason::UnknownTimer, detail };
    }
    let when = When::backed_off(now, back_off.nominal(attempts.made));
    Outcome::LookAgain { attempts, when }
}
