use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// From which row on a relay looks at the outbox.
///
/// Rows that were sent and deleted stay in the index as long as an older transaction is open that might see them (a backup, a
/// report). A look from the start steps over each of them, so with every row that is sent the next look would take longer. So as
/// soon as a look from the start takes long, most looks begin where the last rows were found.
///
/// A look from the start finds what was written with a smaller number: by a transaction that took its time, or by a relay that
/// died.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    /// The last row of each look that found some, and when that was.
    found: VecDeque<(Instant, i64)>,
    /// When the next look from the start is due.
    whole_at: Option<Instant>,
    /// Whether the look that has begun is one.
    whole: bool,
}

/// Rows of transactions that take no longer than this are found at once, whatever numbers they have.
const TRANSACTION_MAX: Duration = Duration::from_secs(1);

/// Looks from the start take no more than this share of the time.
const SHARE: u32 = 20;

impl Frontier {
    /// A look begins: at rows with a number above this.
    pub(crate) fn begin(&mut self, now: Instant) -> i64 {
        self.whole = self.whole_at.is_none_or(|at| now >= at);
        let mark = self.mark(now);
        if self.whole { 0 } else { mark }
    }

    /// Whether the look that has begun goes from the start.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The look took so long, and the last row that it found was this one.
    pub(crate) fn end(&mut self, now: Instant, took: Duration, last: Option<i64>) {
        if self.whole {
            self.whole_at = Some(now + took * SHARE);
        }
        self.found.extend(last.map(|row| (now, row)));
    }

    /// These rows are to be found again.
    pub(crate) fn give_back(&mut self, rows: &[i64]) {
        if let Some(first) = rows.iter().min() {
            self.found.retain(|(_, row)| row < first);
        }
    }

    /// The last row that was found so long ago that no transaction has still to write a smaller number; 0 if there is none.
    fn mark(&mut self, now: Instant) -> i64 {
        let old = self.found.iter().take_while(|(at, _)| now.duration_since(*at) >= TRANSACTION_MAX).count();
        // Of those the last is enough.
        self.found.drain(..old.saturating_sub(1));
        self.found.front().filter(|_| old > 0).map_or(0, |(_, row)| *row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_from_the_start_as_long_as_that_is_cheap() {
        let (mut frontier, begun) = (Frontier::default(), Instant::now());
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(frontier.begin(at(0)), 0);
        frontier.end(at(1), Duration::from_millis(1), Some(70));
        assert_eq!(frontier.begin(at(51)), 0);
        assert!(frontier.is_whole(), "it took 1 ms, 50 ms ago");
        frontier.end(at(251), Duration::from_millis(200), Some(90));
        assert_eq!(frontier.begin(at(900)), 0);
        assert!(!frontier.is_whole(), "but smaller numbers may still be written");
        frontier.end(at(901), Duration::from_millis(1), None);
        assert_eq!(frontier.begin(at(1_100)), 70);
        assert_eq!(frontier.begin(at(1_300)), 90);
        assert_eq!(frontier.begin(at(4_251)), 0, "it is time");
    }

    #[test]
    fn what_is_given_back_is_found_again() {
        let (mut frontier, begun) = (Frontier::default(), Instant::now());
        let at = |s| begun + Duration::from_secs(s);
        frontier.begin(at(0));
        frontier.end(at(0), Duration::from_secs(100), Some(10));
        frontier.begin(at(1));
        frontier.end(at(1), Duration::from_millis(1), Some(20));
        frontier.give_back(&[15, 12]);
        assert_eq!(frontier.begin(at(60)), 10);
    }
}
