//! How events come, and how they give way to orders that are being settled.

use std::time::{Duration, Instant};

/// How events come, as the last pass found it.
#[derive(Debug, Default)]
pub(crate) struct EventFlow {
    /// The number of the newest row.
    newest: i64,
    /// When a newer one was found than before.
    newer_at: Option<Instant>,
    /// How long the oldest has waited.
    age: Duration,
}

/// Events keep coming if there was a new one within this time.
const COMING_FOR: Duration = Duration::from_secs(1);

/// For so long events give way to what makes more of them.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

impl EventFlow {
    /// A pass has left some behind: the oldest that it found had waited for so long, and this is the number of the
    /// newest row.
    pub(crate) fn see(&mut self, age: Duration, newest: i64) {
        self.age = age;
        if newest > self.newest {
            (self.newest, self.newer_at) = (newest, Some(Instant::now()));
        }
    }

    /// Whether new ones keep coming. Between two batches of orders there may be several passes.
    fn more_are_coming(&self) -> bool {
        self.newer_at.is_some_and(|at| at.elapsed() < COMING_FOR)
    }

    /// How long the events rest after a pass of so long that has left some behind. Events are in no hurry, and deadlines
    /// are: while new events keep coming, orders are being settled, and the servers have nine tenths of the time for
    /// that; half of it, once the events have waited for long. Afterwards there is no rest.
    pub(crate) fn rest_after(&self, took: Duration) -> Duration {
        match (self.more_are_coming(), self.age < EVENT_PATIENCE) {
            (true, true) => took * 9,
            (true, false) => took,
            (false, _) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_coming_between_two_batches_of_orders() {
        let mut events = EventFlow::default();
        assert!(!events.more_are_coming());
        events.see(Duration::ZERO, 7);
        events.see(Duration::ZERO, 7);
        assert!(events.more_are_coming(), "a pass that finds none is no sign of their end");
        events.newer_at = Instant::now().checked_sub(COMING_FOR);
        events.see(Duration::ZERO, 7);
        assert!(!events.more_are_coming());
        events.see(Duration::ZERO, 8);
        assert!(events.more_are_coming());
    }

    #[test]
    fn events_give_way_to_orders_that_are_being_settled_but_not_for_ever() {
        let mut events = EventFlow::default();
        let rest = |events: &EventFlow| events.rest_after(Duration::from_millis(50)).as_millis();
        assert_eq!(rest(&events), 0);
        events.see(Duration::ZERO, 7);
        assert_eq!(rest(&events), 450);
        events.see(EVENT_PATIENCE, 8);
        assert_eq!(rest(&events), 50);
    }
}
