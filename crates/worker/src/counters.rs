use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a worker has done since its start; all its pipelines count here.
        #[derive(Debug, Default)]
        pub struct WorkerCounters { $($(#[$doc])* pub(crate) $name: AtomicU64),* }

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
    /// Messages, or entries of messages, that were parked.
    parked,
    /// Times that a step had to be tried again because a server was away.
    held,
    /// The greatest lateness of a close, in milliseconds.
    lateness_max_ms,
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
