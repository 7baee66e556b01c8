use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a worker has done since its start; all its pipelines count here.
        #[derive(Debug, Default)]
        pub struct WorkerCounters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
            in_flight: AtomicU64,
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
