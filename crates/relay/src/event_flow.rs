//! How events come, and how they give way to orders that are being settled.

use std::time::{Duration, Instant};

use crate::claim::ClaimedEvent;

/// How events come, as the last pass found it.
#[derive(Debug)]
pub(crate) struct EventFlow {
    /// How many of them a row has.
    per_row: usize,
    /// The number of the newest row.
    newest: i64,
    /// When a newer one was found than before.
    newer_at: Option<Instant>,
    /// How long the oldest has waited.
    age: Duration,
}

/// About how many events are claimed at a time.
const CLAIM_EVENTS: usize = 1024;

/// How many events a row has at the most.
const ROW_EVENTS_MAX: usize = 256;

/// Events keep coming if there was a new one within this time.
const COMING_FOR: Duration = Duration::from_secs(1);

/// For so long events give way to what makes more of them.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

impl EventFlow {
    /// Before any was seen, each row is taken to be as large as can be.
    pub(crate) fn new() -> Self {
        Self { per_row: ROW_EVENTS_MAX, newest: 0, newer_at: None, age: Duration::ZERO }
    }

    /// How many rows have about [`CLAIM_EVENTS`].
    pub(crate) fn rows(&self) -> usize {
        CLAIM_EVENTS.div_ceil(self.per_row)
    }

    pub(crate) fn see(&mut self, claimed: &[ClaimedEvent]) {
        let events: usize = claimed.iter().map(|row| usize::try_from(row.events).unwrap_or(1)).sum();
        self.per_row = (events / claimed.len().max(1)).max(1);
        let age_s = claimed.iter().map(|row| row.age_s).fold(0.0, f64::max);
        self.age = Duration::try_from_secs_f64(age_s).unwrap_or_default();
    }

    pub(crate) fn see_newest(&mut self, newest: i64) {
        if newest > self.newest {
            (self.newest, self.newer_at) = (newest, Some(Instant::now()));
        }
    }

    /// Whether new ones keep coming. Between two batches of orders there may be several passes.
    fn more_are_coming(&self) -> bool {
        self.newer_at.is_some_and(|at| at.elapsed() < COMING_FOR)
    }

    /// How long the events rest after a pass of so long that has left some behind. Events are in no hurry, and deadlines are:
    /// while new events keep coming, orders are being settled, and the servers have nine tenths of the time for that; half of it,
    /// once the events have waited for long. Afterwards there is no rest.
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
        let mut events = EventFlow::new();
        assert!(!events.more_are_coming());
        events.see_newest(7);
        events.see_newest(7);
        assert!(events.more_are_coming(), "a pass that finds none is no sign of their end");
        events.newer_at = Instant::now().checked_sub(COMING_FOR);
        events.see_newest(7);
        assert!(!events.more_are_coming());
        events.see_newest(8);
        assert!(events.more_are_coming());
    }

    #[test]
    fn a_pass_takes_as_many_rows_as_have_about_a_thousand_events() {
        let row = |events| ClaimedEvent {
            id: 1,
            order_id: String::new(),
            due_at: time::OffsetDateTime::UNIX_EPOCH,
            event: String::new(),
            event_id: String::new(),
            events,
            data: String::new(),
            traceparent: None,
            age_s: 2.0,
        };
        let mut flow = EventFlow::new();
        let mut rows_after = |seen: &[i32]| {
            flow.see(&seen.iter().map(|events| row(*events)).collect::<Vec<_>>());
            flow.rows()
        };
        assert_eq!((EventFlow::new().rows(), rows_after(&[1; 4]), rows_after(&[256, 100, 1])), (4, 1_024, 9));
    }

    #[test]
    fn events_give_way_to_orders_that_are_being_settled_but_not_for_ever() {
        let mut events = EventFlow::new();
        let rest = |events: &EventFlow| events.rest_after(Duration::from_millis(50)).as_millis();
        assert_eq!(rest(&events), 0);
        events.see_newest(7);
        assert_eq!(rest(&events), 450);
        events.age = EVENT_PATIENCE;
        assert_eq!(rest(&events), 50);
    }
}
