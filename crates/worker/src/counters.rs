use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Upper bounds, in seconds: around the coalescing window where all is well, up to hours where it is not.
const LATENESS_BUCKETS_S: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a worker has done since its start; all its pipelines count here.
        #[derive(Debug)]
        pub struct WorkerCounters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            in_flight: AtomicU64,
            /// From the deadline of an order to its close, in seconds, by the database's clock.
            pub lateness: Histogram,
            /// Orders in a batch.
            pub batch_orders: Histogram,
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self {
                    $($name: AtomicU64::new(0),)*
                    in_flight: AtomicU64::new(0),
                    lateness: Histogram::new(LATENESS_BUCKETS_S),
                    batch_orders: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
                }
            }
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct CounterValues { $($(#[$doc])* pub $name: u64),* }

        impl WorkerCounters {
            /// The values as they are now.
            #[must_use]
            pub fn read(&self) -> CounterValues {
                CounterValues { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Batches that were acked.
    batches,
    /// Messages in them.
    messages,
    /// Orders that were looked at, each once in a batch.
    orders,
    /// Orders that were closed.
    closed,
    /// Orders that were found paid, cancelled or closed already.
    unchanged,
    /// Orders that came before their deadline and went back to a lane.
    waiting,
    /// Orders that were handed over to those who ask gateways.
    handed_over,
    /// Orders that their gateways said are paid.
    paid,
    /// Payments that came for orders that were closed or cancelled before: they go back.
    late,
    /// Orders whose gateways gave no clear answer and are asked again later.
    retried,
    /// Orders that wait, without an attempt spent, because their gateway cannot be asked at all.
    gateway_held,
    /// Calls to gateways.
    gateway_calls,
    /// Calls that gave no answer that could be used.
    gateway_faults,
    /// How many calls were under way at the same time, at most.
    gateway_in_flight_max,
    /// Kinds of calls to gateways that are not made now, but for a probe now and then: it refuses our settings, or
    /// nobody gets an answer.
    gateway_circuits_open,
    /// Refunds that have arrived.
    refunded,
    /// Orders that the database does not know yet, or that somebody else has locked, and that are looked at again.
    looked_at_again,
    /// Orders that the sweep has closed or found paid: no message has brought them in time.
    rescued,
    /// Orders that a person has come upon past their deadline, and that were closed or found paid then.
    passively_settled,
    /// Orders that the sweep has found past their deadline and could not settle, at its last round.
    stuck,
    /// Whether this process sweeps: 1 or 0.
    sweep_leader,
    /// Rounds that the sweep has finished.
    sweep_rounds,
    /// Subscriptions that are open.
    consumers_open,
    /// Messages, or entries of messages, that were parked.
    parked,
    /// Times that a step had to be tried again because a server was away.
    held,
    /// The greatest lateness of a close, in milliseconds.
    lateness_max_ms,
}

/// A call to a gateway that is under way; ends when dropped.
pub(crate) struct InFlight<'a>(&'a WorkerCounters);

impl WorkerCounters {
    /// Calls to gateways that are under way.
    #[must_use]
    pub fn gateway_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) -> InFlight<'_> {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.gateway_in_flight_max.fetch_max(now, Ordering::Relaxed);
        InFlight(self)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
