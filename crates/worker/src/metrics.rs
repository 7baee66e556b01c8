use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use book::{LATENESS_BOUNDS_S, Lateness};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::outcome::{Outcome, OutcomeKind};

/// Histograms by the kind of timers.
type ByTimerKind = Family<[(&'static str, String); 1], Histogram, fn() -> Histogram>;

/// Counters by outcome.
type Outcomes = Family<[(&'static str, &'static str); 1], Counter>;

/// What worker, sweep and passive close of a process have done since its start. Copies count together.
#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    outcomes: Outcomes,
    timer_outcomes: Outcomes,
    /// From the deadline of an order to its close, in seconds, by the book's clock.
    close_lateness: Histogram,
    close_lateness_max_ms: Gauge,
    late: Arc<LateCounts>,
    /// From the moment at which a timer was due to its firing, in seconds, by the database's clock, by the timer's kind.
    timer_lateness: ByTimerKind,
    /// The kinds that have a label of their own.
    timer_kinds: Arc<Mutex<HashSet<String>>>,
    /// Orders in a batch.
    pub(crate) batch_orders: Histogram,
    /// Batches that were acked.
    pub batches: Counter,
    /// Messages that were acked.
    pub messages: Counter,
    /// Attempts at an order that settled nothing and are made again later.
    pub attempts_in_vain: Counter,
    /// Messages, or parts of them, that were set aside for a person.
    pub parked: Counter,
    /// Messages that came out of their lanes before their time, and wait in the outbox.
    pub early: Counter,
    /// Orders that are in memory until they are due.
    pub held: Gauge,
    /// Orders that came before their time, and were sent on without a look at them.
    pub sent_on: Counter,
    /// Times that a server that is away was waited for.
    pub waits: Counter,
    /// Subscriptions that are open.
    pub consumers: Gauge,
    /// Calls to payment gateways.
    pub gateway_calls: Counter,
    /// Calls to payment gateways that gave no answer that could be used.
    pub gateway_faults: Counter,
    /// Calls to payment gateways that are under way.
    pub gateway_calls_in_flight: Gauge,
    /// The most of them that were under way at the same time.
    pub gateway_calls_in_flight_max: Gauge,
    /// Kinds of calls to payment gateways that are not made but for a probe now and then.
    pub gateway_circuits_open: Gauge,
    /// Refunds of late payments that have arrived.
    pub refunds_arrived: Counter,
    /// Orders that the sweep has closed or found paid: no message brought them in time.
    pub rescued: Counter,
    /// Orders that the sweep has closed or found paid, and whose deadline was moved into the past.
    pub moved: Counter,
    /// Timers that the sweep has fired: no message brought them in time.
    pub timers_rescued: Counter,
    /// Orders that were closed or found paid because a request looked at them.
    pub passively_settled: Counter,
    /// Whether this process sweeps: 1 or 0.
    pub sweep_leader: Gauge,
    /// Rounds that the sweep has finished.
    pub sweep_rounds: Counter,
    /// Orders past their deadline that the sweep could not settle at its last round.
    pub sweep_stuck_orders: Gauge,
    /// Timers past their time that the sweep could not fire at its last round.
    pub sweep_stuck_timers: Gauge,
}

/// The same counts as the histogram of closes has, which can be read.
#[derive(Debug, Default)]
struct LateCounts {
    counts: [AtomicU64; LATENESS_BOUNDS_S.len() + 1],
    /// The greatest since it was last taken.
    max_ms: AtomicU64,
}

/// How timers can end.
const TIMER_OUTCOMES: [OutcomeKind; 5] =
    [OutcomeKind::Fired, OutcomeKind::Unchanged, OutcomeKind::Waiting, OutcomeKind::LookedAtAgain, OutcomeKind::Parked];

/// So many kinds of timers have a label of their own; the rest share `other`.
const TIMER_KINDS_MAX: usize = 64;

impl Default for WorkerMetrics {
    fn default() -> Self {
        let outcomes = Outcomes::default();
        // So that each is shown from the first, as zero.
        for kind in OutcomeKind::ALL.into_iter().filter(|kind| *kind != OutcomeKind::Fired) {
            drop(outcomes.get_or_create(&label(kind)));
        }
        let timer_outcomes = Outcomes::default();
        for kind in TIMER_OUTCOMES {
            drop(timer_outcomes.get_or_create(&label(kind)));
        }
        Self {
            outcomes,
            timer_outcomes,
            close_lateness: Histogram::new(LATENESS_BOUNDS_S),
            close_lateness_max_ms: Gauge::default(),
            late: Arc::default(),
            timer_lateness: Family::new_with_constructor(|| Histogram::new(LATENESS_BOUNDS_S)),
            timer_kinds: Arc::default(),
            batch_orders: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            batches: Counter::default(),
            messages: Counter::default(),
            attempts_in_vain: Counter::default(),
            parked: Counter::default(),
            early: Counter::default(),
            held: Gauge::default(),
            sent_on: Counter::default(),
            waits: Counter::default(),
            consumers: Gauge::default(),
            gateway_calls: Counter::default(),
            gateway_faults: Counter::default(),
            gateway_calls_in_flight: Gauge::default(),
            gateway_calls_in_flight_max: Gauge::default(),
            gateway_circuits_open: Gauge::default(),
            refunds_arrived: Counter::default(),
            rescued: Counter::default(),
            moved: Counter::default(),
            timers_rescued: Counter::default(),
            passively_settled: Counter::default(),
            sweep_leader: Gauge::default(),
            sweep_rounds: Counter::default(),
            sweep_stuck_orders: Gauge::default(),
            sweep_stuck_timers: Gauge::default(),
        }
    }
}

/// A call to a gateway that is under way; ends when dropped.
pub(crate) struct InFlight<'a>(&'a Gauge<i64, AtomicI64>);

impl WorkerMetrics {
    /// Adds them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "close_lateness",
            "From the deadline of an order to its close, by the database's clock",
            Unit::Seconds,
            self.close_lateness.clone(),
        );
        registry.register_with_unit(
            "timer_lateness",
            "From the moment at which a timer was due to its firing, by the database's clock, by the timer's kind",
            Unit::Seconds,
            self.timer_lateness.clone(),
        );
        registry.register("batch_orders", "Orders in a batch", self.batch_orders.clone());
        registry.register("orders", "Orders that were looked at, by their outcome", self.outcomes.clone());
        registry.register("timers", "Timers that were looked at, by their outcome", self.timer_outcomes.clone());
        registry.register("messages", "Messages that were acked", self.messages.clone());
        registry.register("batches", "Batches that were acked", self.batches.clone());
        registry.register(
            "attempts_in_vain",
            "Attempts at an order that settled nothing and are made again later",
            self.attempts_in_vain.clone(),
        );
        registry.register(
            "parked",
            "Messages, or parts of them, that were set aside for a person",
            self.parked.clone(),
        );
        registry.register("early", "Messages that came out of their lanes before their time", self.early.clone());
        registry.register("held_orders", "Orders that are in memory until they are due", self.held.clone());
        registry.register(
            "sent_on",
            "Orders that came before their time, and were sent on without a look at them",
            self.sent_on.clone(),
        );
        registry.register(
            "rescued",
            "Orders that the sweep has settled: no message brought them in time",
            self.rescued.clone(),
        );
        registry.register(
            "moved",
            "Orders that the sweep has settled, and whose deadline was moved into the past",
            self.moved.clone(),
        );
        registry.register(
            "timers_rescued",
            "Timers that the sweep has fired: no message brought them in time",
            self.timers_rescued.clone(),
        );
        registry.register(
            "passively_settled",
            "Orders that were settled because a request looked at them",
            self.passively_settled.clone(),
        );
        registry.register("waits", "Times that a server that is away was waited for", self.waits.clone());
        registry.register("gateway_calls", "Calls to payment gateways", self.gateway_calls.clone());
        registry.register(
            "gateway_faults",
            "Calls to payment gateways that gave no answer that could be used",
            self.gateway_faults.clone(),
        );
        registry.register(
            "gateway_calls_in_flight",
            "Calls to payment gateways that are under way",
            self.gateway_calls_in_flight.clone(),
        );
        registry.register(
            "gateway_circuits_open",
            "Kinds of calls to payment gateways that are not made but for a probe now and then",
            self.gateway_circuits_open.clone(),
        );
        registry.register(
            "refunds_arrived",
            "Refunds of late payments that have arrived",
            self.refunds_arrived.clone(),
        );
        registry.register("consumers", "Subscriptions to queues that are open", self.consumers.clone());
        registry.register("sweep_leader", "Whether this process sweeps", self.sweep_leader.clone());
        registry.register("sweep_rounds", "Rounds that the sweep has finished", self.sweep_rounds.clone());
        registry.register(
            "sweep_stuck_orders",
            "Orders past their deadline that the sweep could not settle at its last round",
            self.sweep_stuck_orders.clone(),
        );
        registry.register(
            "sweep_stuck_timers",
            "Timers past their time that the sweep could not fire at its last round",
            self.sweep_stuck_timers.clone(),
        );
    }

    /// How many orders ended like this.
    #[must_use]
    pub fn orders(&self, kind: OutcomeKind) -> u64 {
        self.outcomes.get_or_create(&label(kind)).get()
    }

    /// How many orders were looked at, each once in a batch.
    #[must_use]
    pub fn orders_seen(&self) -> u64 {
        OutcomeKind::ALL.iter().filter(|kind| **kind != OutcomeKind::Fired).map(|kind| self.orders(*kind)).sum()
    }

    /// The greatest lateness of a close.
    #[must_use]
    pub fn close_lateness_max(&self) -> Duration {
        Duration::from_millis(self.close_lateness_max_ms.get().unsigned_abs())
    }

    /// How many timers ended like this.
    #[must_use]
    pub fn timers(&self, kind: OutcomeKind) -> u64 {
        self.timer_outcomes.get_or_create(&label(kind)).get()
    }

    /// Counts how orders ended.
    pub(crate) fn count<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome>) {
        self.count_in(&self.outcomes, outcomes);
    }

    /// Counts how timers ended.
    pub(crate) fn count_timers<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome>) {
        self.count_in(&self.timer_outcomes, outcomes);
    }

    fn count_in<'a>(&self, family: &Outcomes, outcomes: impl Iterator<Item = &'a Outcome>) {
        let mut counts = [0; OutcomeKind::ALL.len()];
        for outcome in outcomes {
            counts[outcome.kind() as usize] += 1;
        }
        for (kind, count) in OutcomeKind::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            family.get_or_create(&label(kind)).inc_by(count);
            if matches!(kind, OutcomeKind::Retried | OutcomeKind::LookedAtAgain) {
                self.attempts_in_vain.inc_by(count);
            }
        }
    }

    pub(crate) fn closed_late(&self, lateness: Duration) {
        self.close_lateness.observe(lateness.as_secs_f64());
        let ms = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
        self.close_lateness_max_ms.inner().fetch_max(ms, Ordering::Relaxed);
        let place = LATENESS_BOUNDS_S.partition_point(|bound| *bound < lateness.as_secs_f64());
        self.late.counts[place].fetch_add(1, Ordering::Relaxed);
        self.late.max_ms.fetch_max(ms.unsigned_abs(), Ordering::Relaxed);
    }

    /// How late orders were closed since the start, and the greatest lateness since this was last taken.
    #[must_use]
    pub fn take_lateness(&self) -> Lateness {
        let counts = self.late.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Lateness { counts, max: Duration::from_millis(self.late.max_ms.swap(0, Ordering::Relaxed)) }
    }

    /// What was taken could not be told to anybody: its greatest counts as not taken.
    pub fn put_back(&self, taken: &Lateness) {
        let ms = u64::try_from(taken.max.as_millis()).unwrap_or(u64::MAX);
        self.late.max_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// A timer of this kind has fired.
    pub(crate) fn fired_late(&self, kind: &str, lateness: Duration) {
        let label = self.label_of(kind);
        self.timer_lateness.get_or_create(&[("kind", label)]).observe(lateness.as_secs_f64());
    }

    /// Kinds are words of whoever arms timers; there may be any number of them.
    fn label_of(&self, kind: &str) -> String {
        let mut known = self.timer_kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < TIMER_KINDS_MAX && !known.contains(kind) {
            known.insert(kind.to_owned());
        }
        if known.contains(kind) { kind.to_owned() } else { "other".to_owned() }
    }

    pub(crate) fn enter_gateway(&self) -> InFlight<'_> {
        let now = self.gateway_calls_in_flight.inc() + 1;
        self.gateway_calls_in_flight_max.inner().fetch_max(now, Ordering::Relaxed);
        InFlight(&self.gateway_calls_in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn label(kind: OutcomeKind) -> [(&'static str, &'static str); 1] {
    [("outcome", kind.as_str())]
}

#[cfg(test)]
mod tests {
    use order::{Attempts, ParkReason, RetryReason};

    use super::*;
    use crate::outcome::When;

    #[test]
    fn outcomes_are_counted_by_their_kind() {
        let metrics = WorkerMetrics::default();
        let again =
            Outcome::LookAgain { attempts: Attempts::default(), when: When::at(time::OffsetDateTime::UNIX_EPOCH) };
        let parked = Outcome::Parked { reason: ParkReason::NotClosed, detail: String::new() };
        metrics.count(
            [Outcome::Closed, Outcome::Closed, Outcome::Retried(RetryReason::NotFoundYet), again, parked].iter(),
        );
        assert_eq!((metrics.orders(OutcomeKind::Closed), metrics.orders(OutcomeKind::Parked)), (2, 1));
        assert_eq!((metrics.orders_seen(), metrics.attempts_in_vain.get()), (5, 2));
    }

    #[test]
    fn the_most_calls_at_a_time_and_the_latest_close_are_kept() {
        let metrics = WorkerMetrics::default();
        let (first, second) = (metrics.enter_gateway(), metrics.enter_gateway());
        drop((first, second));
        drop(metrics.enter_gateway());
        assert_eq!((metrics.gateway_calls_in_flight.get(), metrics.gateway_calls_in_flight_max.get()), (0, 2));
        metrics.closed_late(Duration::from_millis(70));
        metrics.closed_late(Duration::from_millis(7));
        assert_eq!(metrics.close_lateness_max(), Duration::from_millis(70));
    }

    #[test]
    fn the_greatest_lateness_is_that_since_it_was_last_taken() {
        let metrics = WorkerMetrics::default();
        for ms in [10, 11, 80, 9_000_000] {
            metrics.closed_late(Duration::from_millis(ms));
        }
        let taken = metrics.take_lateness();
        assert_eq!(
            (taken.counts[0], taken.counts[1], taken.counts[3], taken.counts[14], taken.count()),
            (1, 1, 1, 1, 4)
        );
        assert_eq!(taken.max, Duration::from_millis(9_000_000));
        assert_eq!((metrics.take_lateness().max, metrics.take_lateness().count()), (Duration::ZERO, 4));
        metrics.put_back(&taken);
        assert_eq!(metrics.take_lateness().max, taken.max);
    }
}
