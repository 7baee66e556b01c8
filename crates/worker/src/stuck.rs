use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use order::OrderId;
use retry::Policy;

/// Orders past their deadline, or timers, that the sweep could not settle, and when it looks at each again. A gateway that is down would
/// be asked for all of them in each round otherwise.
#[derive(Debug)]
pub(crate) struct Stuck<I = OrderId> {
    entries: HashMap<I, Entry>,
}

#[derive(Debug)]
struct Entry {
    rounds: u32,
    again_at: Instant,
}

/// Between looks at an order that could not be settled.
const LOOKS: Policy = Policy { initial: Duration::from_secs(20), max: Duration::from_mins(10) };

/// How many of them are remembered.
const ENTRIES_MAX: usize = 100_000;

impl<I> Default for Stuck<I> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<I: Clone + Eq + Hash> Stuck<I> {
    /// Whether it is to be looked at now.
    pub(crate) fn is_due(&self, id: &I, now: Instant) -> bool {
        self.entries.get(id).is_none_or(|entry| entry.again_at <= now)
    }

    /// It could not be settled. It is looked at again later, each time later.
    pub(crate) fn put_off(&mut self, id: &I, now: Instant) {
        let rounds = self.entries.get(id).map_or(1, |entry| entry.rounds.saturating_add(1));
        if rounds > 1 || self.entries.len() < ENTRIES_MAX {
            self.entries.insert(id.clone(), Entry { rounds, again_at: now + LOOKS.delay(rounds) });
        }
    }

    /// It is settled.
    pub(crate) fn settled(&mut self, id: &I) {
        self.entries.remove(id);
    }

    /// Forgets those that are overdue no more.
    pub(crate) fn keep(&mut self, overdue: &HashSet<I>) {
        self.entries.retain(|id, _| overdue.contains(id));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// One of them.
    pub(crate) fn example(&self) -> Option<&I> {
        self.entries.keys().next()
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
            while stuck.entries.get(&id(1)).is_none_or(|entry| entry.rounds < round) {
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
        (0..ENTRIES_MAX + 10).for_each(|number| stuck.put_off(&id(number), now));
        assert_eq!(stuck.len(), ENTRIES_MAX);
        assert!(stuck.is_due(&id(ENTRIES_MAX + 1), now), "not remembered, so looked at each time");
        stuck.keep(&HashSet::from([id(7), id(8)]));
        assert_eq!(stuck.len(), 2);
    }
}
