//! How long to wait before the next try. No other crate names `backoff`: it is unmaintained, and its successor has to be
//! put in here alone.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// How delays grow: from `initial`, doubling, up to `max`, each varied at random by half of itself so that
/// many waiters do not return at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The first delay, before it is varied.
    pub initial: Duration,
    /// The longest delay, before it is varied.
    pub max: Duration,
}

impl Policy {
    /// For a server that is away: from a quarter of a second to ten seconds.
    pub const RECONNECT: Self = Self { initial: Duration::from_millis(250), max: Duration::from_secs(10) };

    /// The delay before attempt number `attempt` (from 1), before it is varied.
    #[must_use]
    pub fn nominal(self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    /// The delay before attempt number `attempt` (from 1).
    #[must_use]
    pub fn delay(self, attempt: u32) -> Duration {
        varied(self.nominal(attempt))
    }

    /// A fresh, endless sequence of delays.
    #[must_use]
    pub fn delays(self) -> Delays {
        Delays(ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            max_interval: self.max,
            multiplier: 2.0,
            randomization_factor: 0.5,
            // The crate's default gives up after 15 minutes; an outage may last longer.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }
}

/// A delay, varied at random by half of itself.
#[must_use]
pub fn varied(delay: Duration) -> Duration {
    Policy { initial: delay, max: delay }.delays().next_delay()
}

/// A delay, varied at random by this part of itself (0 to 1).
#[must_use]
pub fn varied_by(delay: Duration, part: f64) -> Duration {
    let policy = Policy { initial: delay, max: delay };
    Delays(ExponentialBackoff { randomization_factor: part, ..policy.delays().0 }).next_delay()
}

/// An endless sequence of growing delays.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Delays {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        // `None` would mean that the total time is up, and there is no such limit.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Starts over: the trouble is past.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_never_end() {
        let policy = Policy { initial: Duration::from_millis(100), max: Duration::from_secs(1) };
        let mut delays = policy.delays();
        let within = |delay: Duration, centre_ms: u64| {
            delay >= Duration::from_millis(centre_ms / 2) && delay <= Duration::from_millis(centre_ms * 3 / 2)
        };
        for centre_ms in [100, 200, 400, 800].into_iter().chain([1_000; 1_000]) {
            let delay = delays.next_delay();
            assert!(within(delay, centre_ms), "{delay:?} is not around {centre_ms} ms");
        }
        delays.reset();
        assert!(within(delays.next_delay(), 100));
        assert_eq!(varied(Duration::ZERO), Duration::ZERO);
        for (attempt, centre_ms) in [(0, 100), (1, 100), (2, 200), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            assert_eq!(policy.nominal(attempt), Duration::from_millis(centre_ms), "attempt {attempt}");
            assert!(within(policy.delay(attempt), centre_ms), "attempt {attempt}");
        }
    }
}
