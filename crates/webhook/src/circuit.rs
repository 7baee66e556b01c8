use std::time::{Duration, Instant};

/// The circuit breaker of an endpoint: after many failures in a row nothing is sent any more but one event a minute, which finds
/// out whether it is over. That event is not charged with an attempt.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    failures: u32,
    /// When the next probe is due; `None`: it is closed.
    probe_at: Option<Instant>,
}

/// After so many deliveries in a row that failed the endpoint counts as away.
pub(crate) const FAILURES_MAX: u32 = 10;

/// How often an endpoint that is away is tried.
pub(crate) const PROBE_EVERY: Duration = Duration::from_mins(1);

impl Circuit {
    /// A delivery went through. Says whether the circuit was open.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.probe_at.take().is_some()
    }

    /// A delivery failed. Says whether that has opened the circuit.
    pub(crate) fn failed(&mut self, now: Instant, probe_every: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        let was_open = self.probe_at.is_some();
        if was_open || self.failures >= FAILURES_MAX {
            self.probe_at = Some(now + probe_every);
        }
        !was_open && self.probe_at.is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.probe_at.is_some()
    }

    /// If it is open, a probe is due at once.
    pub(crate) fn probe_now(&mut self, now: Instant) {
        self.probe_at = self.probe_at.map(|at| at.min(now));
    }

    /// How long until the next probe; zero: nothing is to be waited for.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.probe_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_many_failures_in_a_row_and_one_success_closes_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..3 {
            assert!((1..FAILURES_MAX).all(|_| !circuit.failed(now, PROBE_EVERY)));
            assert!(!circuit.succeeded());
        }
        assert!((1..FAILURES_MAX).all(|_| !circuit.failed(now, PROBE_EVERY)));
        assert!(circuit.failed(now, PROBE_EVERY), "it has opened");
        assert_eq!((circuit.is_open(), circuit.wait(now)), (true, PROBE_EVERY));
        assert!(!circuit.failed(now + PROBE_EVERY, PROBE_EVERY), "it was open");
        assert_eq!(circuit.wait(now + PROBE_EVERY), PROBE_EVERY, "a probe that fails waits for the next");
        circuit.probe_now(now);
        assert!(circuit.is_open() && circuit.wait(now).is_zero(), "an operator wants to know");
        assert!(circuit.succeeded() && !circuit.is_open() && circuit.wait(now).is_zero());
    }
}
