//! What becomes of messages as they arrive, by what they say of themselves. The order book is not asked.

use std::time::Duration;

use book::{Trail, TrailStep};
use broker::Incoming;
use order::{Deadline, TimeoutId};
use time::OffsetDateTime;

use crate::early::is_early;
use crate::hold::Share;

/// Messages that were not held.
#[derive(Default)]
pub(crate) struct Arrived {
    /// To be handled at once: due, or they do not say when they are.
    pub(crate) due: Vec<Incoming>,
    /// Due later than can be waited for: they go on to another lane.
    pub(crate) onward: Vec<Incoming>,
    /// Out of their lane before its time.
    pub(crate) early: Vec<Incoming>,
}

/// How early messages may be to be held.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holding {
    /// Up to this margin.
    Within(Duration),
    /// None is held: what a careful session held would stand in the way of what is behind it.
    Nothing,
}

/// While the hold is full it takes only what is due so soon that sending it on would make it late.
pub(crate) const TIGHT_MARGIN: Duration = Duration::from_secs(2);

impl Arrived {
    /// Sorts messages, and gives to `hold` those that are to be held.
    pub(crate) fn sort(messages: Vec<Incoming>, now: OffsetDateTime, holding: Holding, hold: &mut Share) -> Self {
        let mut arrived = Self::default();
        for message in messages {
            let due = earliest(&message);
            let is_past = due.is_none_or(|due| due.is_past(now));
            match (due, holding) {
                // What is to be looked at again may be past due and too early.
                _ if is_past && is_early(&message, now) => arrived.early.push(message),
                (Some(due), Holding::Within(margin)) if due.remaining(now) <= margin => hold.add(message),
                _ if is_past => arrived.due.push(message),
                _ if is_early(&message, now) => arrived.early.push(message),
                _ => arrived.onward.push(message),
            }
        }
        arrived
    }

    /// The orders that go on to another lane.
    pub(crate) fn orders_onward(&self) -> Vec<(TimeoutId, Deadline)> {
        let orders = self.onward.iter().filter_map(Incoming::due).flatten();
        orders.map(|(id, due)| (id.clone(), due)).collect()
    }
}

/// Has it written down that the orders of this message have come.
pub(crate) fn tell(trail: &Trail, message: &Incoming) {
    let Ok(content) = &message.content else { return };
    let attempts = message.attempts().made;
    let lane = message.lane();
    let is_lane = lane != "now" && !lane.starts_with("overdue");
    let mut detail = if is_lane { format!("by the lane {lane}") } else { "straight to the due queue".to_owned() };
    if attempts > 0 {
        detail += &format!(", with {attempts} attempts behind it");
    }
    if message.deliveries() > 0 {
        detail += &format!(", delivered {} times before", message.deliveries());
    }
    trail.tell(TrailStep::Came, "worker", content.ids.iter().map(TimeoutId::as_str), &detail);
}

/// When the first of its orders is due, if the message can be believed. Messages of other kinds are about orders that are due.
fn earliest(message: &Incoming) -> Option<Deadline> {
    message.due().filter(|_| message.kind().is_held())?.map(|(_, due)| due).min()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;
    use crate::fakes::{id, now, of_ours};
    use crate::hold::Hold;

    const MARGIN: Duration = Duration::from_secs(10);

    fn ours(tag: u64, due_in_s: u64) -> Incoming {
        of_ours(tag, &[(id(&format!("o-{tag}")), Deadline::at(now() + Duration::from_secs(due_in_s)))])
    }

    #[test]
    fn what_is_to_be_looked_at_again_later_is_kept_back_although_it_is_due() {
        let (mut hold, held) = hold();
        let again = ours(1, 0).meant_for(now() + Duration::from_secs(30));
        let arrived = Arrived::sort(vec![again], now(), Holding::Within(MARGIN), &mut hold);
        assert_eq!(counts(&arrived, &held), [0, 0, 1, 0]);
    }

    fn hold() -> (Share, Gauge) {
        let held = Gauge::default();
        (Hold::new(held.clone()).share(), held)
    }

    fn counts(arrived: &Arrived, held: &Gauge) -> [usize; 4] {
        [arrived.due.len(), arrived.onward.len(), arrived.early.len(), held.get() as usize]
    }

    #[test]
    fn what_is_due_soon_is_held_and_what_is_due_later_goes_on() {
        let (mut hold, held) = hold();
        let pushed_out = ours(4, 60).meant_for(now() + Duration::from_secs(50));
        let came_early_by_a_little = ours(5, 9).meant_for(now() + Duration::from_secs(8));
        let messages = vec![ours(1, 0), ours(2, 10), ours(3, 11), pushed_out, came_early_by_a_little];
        let arrived = Arrived::sort(messages, now(), Holding::Within(MARGIN), &mut hold);
        assert_eq!(counts(&arrived, &held), [0, 1, 1, 3]);
        assert_eq!(arrived.orders_onward()[0].0, id("o-3").into());
    }

    #[test]
    fn what_a_foreign_publisher_says_of_its_time_counts_for_nothing() {
        let (mut hold, held) = hold();
        let body = br#"{"v":1,"orders":[{"id":"a","due":"2999-01-01T00:00:00Z"}]}"#;
        let messages = vec![Incoming::untouched_by_a_broker("30m.payment", body)];
        let arrived = Arrived::sort(messages, now(), Holding::Within(MARGIN), &mut hold);
        assert_eq!(counts(&arrived, &held), [1, 0, 0, 0]);
    }

    #[test]
    fn a_careful_session_holds_nothing() {
        let (mut hold, held) = hold();
        let messages = vec![ours(1, 0), ours(2, 1)];
        let arrived = Arrived::sort(messages, now(), Holding::Nothing, &mut hold);
        assert_eq!(counts(&arrived, &held), [1, 1, 0, 0]);
    }
}
