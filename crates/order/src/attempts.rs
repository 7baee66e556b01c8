use time::OffsetDateTime;

use crate::{Deadline, RetryReason};

/// Attempts at an order that settled nothing: how many, and the results of the last ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempts {
    /// How many there were.
    pub made: u32,
    /// The results of the last [`Attempts::HISTORY_MAX`], oldest first: `2026-11-22T08:30:00Z user_paying`.
    pub history: Vec<String>,
}

impl Attempts {
    /// The most results that are kept.
    pub const HISTORY_MAX: usize = 16;

    /// The most characters that are kept of one result.
    const RESULT_CHARACTERS_MAX: usize = 200;

    /// One attempt more, made at this time, and why it settled nothing.
    #[must_use]
    pub fn plus(mut self, at: OffsetDateTime, why: &RetryReason) -> Self {
        self.made = self.made.saturating_add(1);
        // To the second, so that orders that fail together still share a message.
        let at = Deadline::at(at.replace_nanosecond(0).unwrap_or(at));
        let why: String = why.to_string().chars().take(Self::RESULT_CHARACTERS_MAX).collect();
        self.history.push(format!("{at} {why}"));
        self.history.drain(..self.history.len().saturating_sub(Self::HISTORY_MAX));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attempts_are_counted_and_the_last_are_told() {
        let now = "2026-11-22T08:30:00.75Z".parse::<Deadline>().unwrap().instant();
        let mut attempts = Attempts::default();
        for number in 1..=20 {
            attempts = attempts.plus(now, &RetryReason::Unclear(format!("{number} {}", "x".repeat(500))));
        }
        assert_eq!((attempts.made, attempts.history.len()), (20, Attempts::HISTORY_MAX));
        assert!(attempts.history[0].starts_with("2026-11-22T08:30:00Z 5 xxx"), "{}", attempts.history[0]);
        assert!(attempts.history.iter().all(|line| line.len() == "2026-11-22T08:30:00Z ".len() + 200));
    }
}
