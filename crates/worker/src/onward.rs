//! Messages that go on to another lane wait for each other for a moment. One alone would cost the broker and the worker several
//! times what it costs among others, and none of them is in a hurry.

use std::time::{Duration, Instant};

use broker::Incoming;

/// Those of a session.
#[derive(Default)]
pub(crate) struct Onward {
    messages: Vec<Incoming>,
    since: Option<Instant>,
}

/// How long the first of them waits.
const WAIT: Duration = Duration::from_millis(100);

/// So many wait for no more.
const ENOUGH: usize = 256;

impl Onward {
    pub(crate) fn add(&mut self, messages: Vec<Incoming>) {
        if !messages.is_empty() {
            self.since.get_or_insert_with(Instant::now);
            self.messages.extend(messages);
        }
    }

    /// How long until they leave; `None`: there are none.
    pub(crate) fn leave_in(&self) -> Option<Duration> {
        let wait = if self.messages.len() < ENOUGH { WAIT } else { Duration::ZERO };
        self.since.map(|since| wait.saturating_sub(since.elapsed()))
    }

    /// All of them, if they have waited long enough or are to leave at once.
    pub(crate) fn take(&mut self, at_once: bool) -> Vec<Incoming> {
        if !at_once && self.leave_in() != Some(Duration::ZERO) {
            return Vec::new();
        }
        self.since = None;
        std::mem::take(&mut self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: usize) -> Vec<Incoming> {
        (0..count).map(|_| Incoming::untouched_by_a_broker("30m.payment", b"o-1")).collect()
    }

    #[test]
    fn they_leave_together_after_a_moment_or_when_they_are_many() {
        let mut onward = Onward::default();
        assert_eq!((onward.leave_in(), onward.take(false).len()), (None, 0));
        onward.add(messages(2));
        onward.add(messages(1));
        assert!(onward.leave_in().is_some_and(|wait| wait > Duration::ZERO));
        assert_eq!(onward.take(false).len(), 0);
        onward.since = Instant::now().checked_sub(WAIT);
        assert_eq!(onward.take(false).len(), 3);
        onward.add(messages(ENOUGH));
        assert_eq!((onward.leave_in(), onward.take(false).len()), (Some(Duration::ZERO), ENOUGH));
        onward.add(messages(1));
        assert_eq!(onward.take(true).len(), 1, "a careful session waits for nothing");
        assert_eq!(onward.leave_in(), None);
    }
}
