//! Orders that came before they are due, in memory until then, with the messages that brought them. A message is acked when the
//! last of its orders is done, so whatever happens to the worker, it comes again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use broker::{DeliveryTag, Incoming};
use order::OrderId;
use time::OffsetDateTime;

/// What one session holds.
#[derive(Default)]
pub(crate) struct Hold {
    messages: HashMap<DeliveryTag, Held>,
    /// Which orders fall due in a slot, by its end.
    slots: BTreeMap<OffsetDateTime, Vec<Place>>,
    orders: usize,
    bytes: usize,
}

struct Held {
    message: Incoming,
    /// How many of its orders are not done.
    open: usize,
}

/// An order: the message that brought it, and its place in there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    tag: DeliveryTag,
    index: usize,
}

/// Orders that fall due within a slot are settled together, at its end.
const SLOT: Duration = Duration::from_millis(10);

/// From so many orders on only what is due soon is held.
const ORDERS_FULL: usize = 65_536;

/// From so many bytes of messages on.
const BYTES_FULL: usize = 64 << 20;

impl Hold {
    /// Holds this message, with its orders and when each is due.
    pub(crate) fn add(&mut self, message: Incoming) {
        let (tag, mut open) = (message.tag(), 0);
        for (index, (_, due)) in message.due().into_iter().flatten().enumerate() {
            self.slots.entry(end_of_slot(due.instant())).or_default().push(Place { tag, index });
            open += 1;
        }
        self.orders += open;
        self.bytes += message.bytes();
        self.messages.insert(tag, Held { message, open });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many orders it holds.
    pub(crate) fn orders(&self) -> usize {
        self.orders
    }

    /// Whether only what is due soon is to be added.
    pub(crate) fn is_full(&self) -> bool {
        self.orders >= ORDERS_FULL || self.bytes >= BYTES_FULL
    }

    /// Whether nothing is to be added, however soon it is due.
    pub(crate) fn is_over_full(&self) -> bool {
        self.orders >= 2 * ORDERS_FULL || self.bytes >= 2 * BYTES_FULL
    }

    /// How long until the first slot ends; `None`: nothing is held.
    pub(crate) fn next_due_in(&self, now: OffsetDateTime) -> Option<Duration> {
        let (end, _) = self.slots.first_key_value()?;
        Some(Duration::try_from(*end - now).unwrap_or_default())
    }

    /// Takes orders that are due: whole slots, until they have `orders_max` orders or more. They stay held until they are
    /// [done](Hold::done).
    pub(crate) fn take_due(&mut self, now: OffsetDateTime, orders_max: usize) -> Vec<Place> {
        let mut taken = Vec::new();
        while let Some(slot) = self.slots.first_entry()
            && *slot.key() <= now
            && taken.len() < orders_max
        {
            taken.extend(slot.remove());
        }
        taken
    }

    /// The messages of these orders, each once.
    pub(crate) fn messages_of(&self, places: &[Place]) -> Vec<&Incoming> {
        let mut tags: Vec<DeliveryTag> = places.iter().map(|place| place.tag).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.iter().filter_map(|tag| Some(&self.messages.get(tag)?.message)).collect()
    }

    /// The order at this place, and the message that brought it.
    pub(crate) fn order(&self, place: Place) -> Option<(&OrderId, &Incoming)> {
        let message = &self.messages.get(&place.tag)?.message;
        Some((message.content.as_ref().ok()?.orders.get(place.index)?, message))
    }

    /// Lets go of orders that are done. Returns the messages of which none is left: they may be acked.
    pub(crate) fn done(&mut self, places: &[Place]) -> Vec<DeliveryTag> {
        let mut finished = Vec::new();
        for place in places {
            let Some(held) = self.messages.get_mut(&place.tag) else { continue };
            held.open -= 1;
            self.orders -= 1;
            if held.open == 0 {
                self.bytes -= held.message.bytes();
                self.messages.remove(&place.tag);
                finished.push(place.tag);
            }
        }
        finished
    }
}

fn end_of_slot(due: OffsetDateTime) -> OffsetDateTime {
    let slot = SLOT.as_nanos().cast_signed();
    let over = due.unix_timestamp_nanos().rem_euclid(slot);
    // At the end of all calendars there is no later instant.
    let rest = Duration::from_nanos(u64::try_from((slot - over) % slot).unwrap_or_default());
    due.checked_add(time::Duration::try_from(rest).unwrap_or_default()).unwrap_or(due)
}

#[cfg(test)]
mod tests {
    use order::Deadline;

    use super::*;
    use crate::fakes::{id, now, of_ours};

    fn at(ms: u64) -> OffsetDateTime {
        now() + Duration::from_millis(ms)
    }

    fn names(hold: &Hold, places: &[Place]) -> Vec<String> {
        let mut names: Vec<String> = places.iter().map(|place| hold.order(*place).unwrap().0.to_string()).collect();
        names.sort();
        names
    }

    fn held() -> Hold {
        let due = |ms| Deadline::at(at(ms));
        let mut hold = Hold::default();
        hold.add(of_ours(1, &[(id("a"), due(5)), (id("b"), due(900))]));
        hold.add(of_ours(2, &[(id("c"), due(9))]));
        hold.add(of_ours(3, &[(id("d"), due(11))]));
        hold
    }

    #[test]
    fn what_falls_due_together_is_taken_together_and_not_before() {
        let mut hold = held();
        assert_eq!(hold.next_due_in(at(0)), Some(Duration::from_millis(10)));
        assert!(hold.take_due(at(9), 10).is_empty());
        let taken = hold.take_due(at(10), 10);
        assert_eq!(names(&hold, &taken), ["a", "c"]);
        assert_eq!(hold.messages_of(&taken).len(), 2);
        assert_eq!(hold.next_due_in(at(10)), Some(Duration::from_millis(10)));
        let taken = hold.take_due(at(2_000), 1);
        assert_eq!(names(&hold, &taken), ["d"], "there is a bound");
    }

    #[test]
    fn a_message_is_acked_when_the_last_of_its_orders_is_done() {
        let mut hold = held();
        let taken = hold.take_due(at(10), 10);
        assert_eq!(hold.done(&taken), [DeliveryTag::of(2)]);
        assert_eq!(hold.orders(), 2);
        let taken = hold.take_due(at(1_000), 10);
        let mut finished = hold.done(&taken);
        finished.sort_unstable();
        assert_eq!(finished, [DeliveryTag::of(1), DeliveryTag::of(3)]);
        assert!(hold.is_empty() && hold.orders() == 0 && hold.bytes == 0);
    }
}
