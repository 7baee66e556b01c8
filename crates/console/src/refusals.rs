//! Refused actions are written down, so many of each operator: nobody fills the table by asking again and again.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Counts the refusals of each operator.
pub(crate) struct Refusals(DefaultKeyedRateLimiter<String>);

const PER_MINUTE: NonZeroU32 = NonZeroU32::new(6).unwrap();
const AT_ONCE: NonZeroU32 = NonZeroU32::new(60).unwrap();

impl Default for Refusals {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(PER_MINUTE).allow_burst(AT_ONCE)))
    }
}

impl Refusals {
    /// Whether one more is written down.
    pub(crate) fn lets_through(&self, operator: &str) -> bool {
        self.0.retain_recent();
        self.0.check_key(&operator.to_owned()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operators_many_refusals_hide_nobody_elses() {
        let refusals = Refusals::default();
        assert_eq!((0..100).filter(|_| refusals.lets_through("bob")).count(), 60);
        assert!(refusals.lets_through("carol"));
    }
}
