//! What a dispatcher shows of its endpoint, and what it can be asked for while it works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use book::{CircuitOf, CircuitState};
use time::OffsetDateTime;
use tokio::sync::Notify;

/// The endpoints of a process, for those who look. Copies are the same.
#[derive(Clone, Default)]
pub struct EndpointStates {
    endpoints: Arc<Vec<Arc<EndpointState>>>,
}

/// An endpoint, as its dispatcher has it.
pub(crate) struct EndpointState {
    name: String,
    shown: Mutex<Shown>,
    probe: Notify,
}

#[derive(Default)]
struct Shown {
    open_since: Option<OffsetDateTime>,
    next_probe: Option<Instant>,
    fault: Option<(OffsetDateTime, String)>,
    in_flight: u64,
}

impl EndpointStates {
    pub(crate) fn of(names: impl Iterator<Item = String>) -> Self {
        Self { endpoints: Arc::new(names.map(|name| Arc::new(EndpointState::new(name))).collect()) }
    }

    /// Their circuit breakers, as they stand in this process.
    #[must_use]
    pub fn circuits(&self) -> Vec<CircuitState> {
        self.endpoints.iter().map(|endpoint| endpoint.circuit()).collect()
    }

    /// Has an endpoint tried at once that was given up for a while, or has asked to be left alone. An operator has asked for it.
    pub fn probe_now(&self, name: &str) {
        if let Some(endpoint) = self.get(name) {
            // Where the circuit is closed nobody waits, and the wish is forgotten.
            endpoint.probe.notify_waiters();
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<EndpointState>> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

impl EndpointState {
    pub(crate) fn new(name: String) -> Self {
        Self { name, shown: Mutex::default(), probe: Notify::new() }
    }

    pub(crate) fn failed(&self, why: &str) {
        self.shown().fault = Some((OffsetDateTime::now_utc(), why.to_owned()));
    }

    /// It is open, and tried next after `wait`; `None`: it is closed.
    pub(crate) fn is_open(&self, wait: Option<Duration>) {
        let mut shown = self.shown();
        shown.next_probe = wait.map(|wait| Instant::now() + wait);
        shown.open_since = wait.and_then(|_| shown.open_since.or_else(|| Some(OffsetDateTime::now_utc())));
    }

    pub(crate) fn in_flight(&self, count: usize) {
        self.shown().in_flight = count as u64;
    }

    /// Until an operator wants it tried.
    pub(crate) async fn probe_wanted(&self) {
        self.probe.notified().await;
    }

    fn circuit(&self) -> CircuitState {
        let shown = self.shown();
        let (fault_at, fault) = shown.fault.clone().unzip();
        let rest = |at: Instant| OffsetDateTime::now_utc() + at.saturating_duration_since(Instant::now());
        CircuitState {
            of: CircuitOf::Endpoint,
            name: self.name.clone(),
            call: String::new(),
            open_since: shown.open_since,
            next_probe: shown.next_probe.map(rest),
            fault,
            fault_at,
            in_flight: shown.in_flight,
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_since_when_an_endpoint_is_given_up_and_why() {
        let states = EndpointStates::of(["shop".to_owned()].into_iter());
        let endpoint = states.get("shop").unwrap();
        assert_eq!(states.circuits()[0].open_since, None);
        endpoint.failed("HTTP 503");
        endpoint.is_open(Some(Duration::from_secs(60)));
        let first = states.circuits().remove(0);
        endpoint.is_open(Some(Duration::from_secs(60)));
        let then = states.circuits().remove(0);
        assert!(first.open_since.is_some() && first.open_since == then.open_since, "since it was opened");
        assert_eq!(first.fault.as_deref(), Some("HTTP 503"));
        endpoint.is_open(None);
        assert_eq!((states.circuits()[0].open_since, states.circuits()[0].next_probe), (None, None));
    }
}
