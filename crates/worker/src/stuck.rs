use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use order::OrderId;
use retry::Policy;

/// Orders past their deadline that the sweep could not settle, and when it looks at each again. A gateway that is down would
/// be asked for all of them in each round otherwise.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    orders: HashMap<OrderId, Entry>,
}

#[derive(Debug)]
struct Entry {
    rounds: u32,
    again_at: Instant,
}

/// Between looks at an order that could not be settled.
const LOOKS: Policy = Policy { initial: Duration::from_secs(20), max: Duration::from_mins(10) };

/// How many such orders are remembered.
const ORDERS_MAX: usize = 100_000;

impl Stuck {
    /// Whether the order is to be looked at now.
    pub(crate) fn is_due(&self, id: &OrderId, now: Instant) -> bool {
        self.orders.get(id).is_none_or(|entry| entry.again_at <= now)
    }

    /// The order could not be settled. It is looked at again later, each time later.
    pub(crate) fn put_off(&mut self, id: &OrderId, now: Instant) {
        let rounds = self.orders.get(id).map_or(1, |entry| entry.rounds.saturating_add(1));
        if rounds > 1 || self.orders.len() < ORDERS_MAX {
            self.orders.insert(id.clone(), Entry { rounds, again_at: now + LOOKS.delay(rounds) });
        }
    }

    /// The order is settled.
    pub(crate) fn settled(&mut self, id: &OrderId) {
        self.orders.remove(id);
    }

    /// Forgets orders that are overdue no more.
    pub(crate) fn keep(&mut self, overdue: &HashSet<OrderId>) {
        self.orders.retain(|id, _| overdue.contains(id));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }

    /// One of them.
    pub(crate) fn example(&self) -> Option<&OrderId> {
        self.orders.keys().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> OrderId {
        OrderId::new(&format!("o-{number}")).unwrap()
    }

    #[test]
    fn an_order_that_stays_stuck_is_looked_at_less_and_less_often() {
        let (mut stuck, now) = (Stuck::default(), Instant::now());
        assert!(stuck.is_due(&id(1), now));
        for (round, longest_s) in [(1, 30), (2, 60), (3, 120), (20, 900)] {
            while stuck.orders.get(&id(1)).is_none_or(|entry| entry.rounds < round) {
                stuck.put_off(&id(1), now);
            }
            // Varied by half: 20 s are 10 to 30.
            assert!(!stuck.is_due(&id(1), now + Duration::from_secs(longest_s / 3 - 1)), "round {round}");
            assert!(stuck.is_due(&id(1), now + Duration::from_secs(longest_s)), "round {round}");
        }
        assert_eq!((stuck.len(), stuck.example()), (1, Some(&id(1))));
        stuck.settled(&id(1));
        assert!(stuck.is_due(&id(1), now));
    }

    #[test]
    fn orders_that_are_overdue_no_more_are_forgotten_and_there_is_a_limit() {
        let (mut stuck, now) = (Stuck::default(), Instant::now());
        (0..ORDERS_MAX + 10).for_each(|number| stuck.put_off(&id(number), now));
        assert_eq!(stuck.len(), ORDERS_MAX);
        assert!(stuck.is_due(&id(ORDERS_MAX + 1), now), "not remembered, so looked at each time");
        stuck.keep(&HashSet::from([id(7), id(8)]));
        assert_eq!(stuck.len(), 2);
    }
}
