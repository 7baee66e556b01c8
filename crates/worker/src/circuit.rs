use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use book::{CircuitOf, CircuitState};
use payment::GatewayFault;
use prometheus_client::metrics::gauge::Gauge;
use retry::{Delays, Policy};
use time::OffsetDateTime;

/// A circuit breaker: keeps a gateway that cannot help now from being asked for every order. There is one for each kind of
/// call, since a gateway may answer queries and refuse to close.
///
/// It opens at once when the gateway does not accept who we are, since that is true of every order. It opens when the
/// gateway does not accept what we ask about two orders in a row; with one, the order itself may be at fault. And it opens
/// when many calls in a row, about several orders, got no usable answer. While it is open one call at a time finds out
/// whether the trouble is over, and no order spends an attempt.
#[derive(Debug)]
pub(crate) struct Circuit {
    gateway: String,
    /// The kind of call.
    kind: &'static str,
    /// How many circuits are open.
    open: Gauge,
    state: Mutex<State>,
    /// What went wrong last, and when.
    last_fault: Mutex<Option<(OffsetDateTime, String)>>,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Calls in a row without an answer that could be used.
        failures: u32,
        /// What they were about, as far as it matters whether there is more than one.
        failed: HashSet<String>,
        suspects: Suspects,
    },
    Open {
        since: OffsetDateTime,
        fault: String,
        suspects: Suspects,
        delays: Delays,
        next_probe: Instant,
        probing: bool,
    },
}

/// The trades that the gateway did not accept a call about since its last good answer. Our settings may be at fault, or
/// these trades.
type Suspects = HashSet<String>;

/// More suspects than these are not remembered.
const SUSPECTS_MAX: usize = 1_000;

/// How much longer a suspect waits than others for its turn to find out whether the trouble is over.
const SUSPECTS_WAIT: Duration = Duration::from_secs(5);

/// Leave to make a call. A probe gives its place to another when it is dropped: its caller may be told to stop in the
/// middle of the call.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    probe_of: Option<&'a Circuit>,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(circuit) = self.probe_of
            && let State::Open { probing, .. } = &mut *circuit.state()
        {
            *probing = false;
        }
    }
}

/// After so many calls in a row without an answer that could be used, the gateway counts as away.
const FAILURES_MAX: u32 = 20;

/// How often an open circuit tries.
const PROBES: Policy = Policy { initial: Duration::from_millis(500), max: Duration::from_secs(10) };

impl Circuit {
    pub(crate) fn new(gateway: &str, kind: &'static str, open: Gauge) -> Self {
        Self { gateway: gateway.to_owned(), kind, open, state: Mutex::new(closed()), last_fault: Mutex::default() }
    }

    /// Leave to make a call about this trade or refund; without, the reason.
    pub(crate) fn admit(&self, about: &str) -> Result<Pass<'_>, String> {
        match &mut *self.state() {
            State::Closed { .. } => Ok(Pass { probe_of: None }),
            State::Open { fault, next_probe, probing, suspects, .. } => {
                // A trade that has failed already tells little. Others go first, if there are any.
                let wait = if suspects.contains(about) { SUSPECTS_WAIT } else { Duration::ZERO };
                if *probing || Instant::now() < *next_probe + wait {
                    return Err(fault.clone());
                }
                *probing = true;
                Ok(Pass { probe_of: Some(self) })
            }
        }
    }

    /// Learns how a call went (`None`: well). Returns whether its failure is the order's own and not shared by all.
    pub(crate) fn learn(&self, pass: &Pass<'_>, about: &str, fault: Option<&GatewayFault>) -> bool {
        if let Some(fault) = fault {
            *self.last_fault() = Some((OffsetDateTime::now_utc(), fault.to_string()));
        }
        let mut state = self.state();
        let identity = matches!(fault, Some(GatewayFault::Unauthenticated(_)));
        let setting = identity || matches!(fault, Some(GatewayFault::Misconfigured(_)));
        let unusable = matches!(fault, Some(GatewayFault::Transient(_) | GatewayFault::Protocol(_)));
        match &mut *state {
            State::Closed { failures, failed, suspects } if setting || unusable => {
                *failures += 1;
                if failed.len() < 2 {
                    failed.insert(about.to_owned());
                }
                if setting {
                    suspects.insert(about.to_owned());
                }
                // One order alone may be at fault itself.
                if identity || suspects.len() > 1 || (*failures >= FAILURES_MAX && failed.len() > 1) {
                    let fault = fault.map(ToString::to_string).unwrap_or_default();
                    tracing::error!(
                        gateway = self.gateway,
                        call = self.kind,
                        fault,
                        "the payment gateway is not asked any more, and no order with a payment there changes, until it answers"
                    );
                    *state = open(fault, std::mem::take(suspects));
                    self.open.inc();
                }
                !identity
            }
            State::Closed { .. } => {
                if fault.is_none() {
                    *state = closed();
                }
                true
            }
            State::Open { fault: known, suspects, delays, next_probe, .. } => {
                if pass.probe_of.is_none() {
                    // It was under way when the circuit opened.
                    return fault.is_none();
                }
                if setting || unusable || matches!(fault, Some(GatewayFault::RateLimited(_))) {
                    let delay = delays.next_delay();
                    *next_probe = Instant::now() + delay;
                    *known = fault.map(ToString::to_string).unwrap_or_default();
                    if setting && suspects.len() < SUSPECTS_MAX {
                        suspects.insert(about.to_owned());
                    }
                    tracing::warn!(
                        gateway = self.gateway,
                        call = self.kind,
                        fault = known,
                        retry_in_ms = delay.as_millis(),
                        "the payment gateway cannot be asked still"
                    );
                    return false;
                }
                tracing::info!(gateway = self.gateway, call = self.kind, "the payment gateway answers again");
                self.open.dec();
                *state = closed();
                true
            }
        }
    }

    /// How long it makes no sense to ask; `None`: asking is fine.
    pub(crate) fn open_for(&self) -> Option<Duration> {
        match &*self.state() {
            State::Closed { .. } => None,
            // A probe is under way.
            State::Open { probing: true, .. } => Some(PROBES.initial),
            State::Open { next_probe, .. } => Some(next_probe.saturating_duration_since(Instant::now())),
        }
    }

    /// How it stands, for those who look.
    pub(crate) fn shown(&self, in_flight: u64) -> CircuitState {
        let (fault_at, fault) = self.last_fault().clone().unzip();
        let (open_since, next_probe, known) = match &*self.state() {
            State::Closed { .. } => (None, None, None),
            State::Open { since, probing: true, fault, .. } => (Some(*since), None, Some(fault.clone())),
            State::Open { since, next_probe, fault, .. } => {
                let rest = next_probe.saturating_duration_since(Instant::now());
                (Some(*since), Some(OffsetDateTime::now_utc() + rest), Some(fault.clone()))
            }
        };
        CircuitState {
            of: CircuitOf::Gateway,
            name: self.gateway.clone(),
            call: self.kind.to_owned(),
            open_since,
            next_probe,
            fault: known.or(fault),
            fault_at,
            in_flight,
        }
    }

    /// If it is open, the next call finds out whether the trouble is over, whatever it is about.
    pub(crate) fn probe_now(&self) {
        if let State::Open { next_probe, .. } = &mut *self.state()
            && let Some(past) = Instant::now().checked_sub(SUSPECTS_WAIT)
        {
            *next_probe = (*next_probe).min(past);
        }
    }

    fn last_fault(&self) -> MutexGuard<'_, Option<(OffsetDateTime, String)>> {
        self.last_fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> State {
    State::Closed { failures: 0, failed: HashSet::new(), suspects: Suspects::new() }
}

fn open(fault: String, suspects: Suspects) -> State {
    let mut delays = PROBES.delays();
    let next_probe = Instant::now() + delays.next_delay();
    State::Open { since: OffsetDateTime::now_utc(), fault, suspects, delays, next_probe, probing: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Pass<'_> = Pass { probe_of: None };

    fn transient() -> GatewayFault {
        GatewayFault::Transient("timeout".to_owned())
    }

    fn is_normal(circuit: &Circuit) -> bool {
        circuit.admit("9").is_ok_and(|pass| pass.probe_of.is_none())
    }

    fn let_time_pass(circuit: &Circuit) {
        if let State::Open { next_probe, .. } = &mut *circuit.state() {
            *next_probe = Instant::now();
        }
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_another() {
        let circuit = Circuit::new("wechat", "query", Gauge::default());
        circuit.learn(&NORMAL, "1", Some(&GatewayFault::Unauthenticated("SIGN_ERROR".to_owned())));
        let_time_pass(&circuit);
        let probe = circuit.admit("9").unwrap();
        assert!(circuit.admit("9").is_err());
        drop(probe);
        assert!(circuit.admit("9").is_ok_and(|pass| pass.probe_of.is_some()));
    }

    #[test]
    fn an_operator_who_asks_for_a_probe_gets_one_and_sees_since_when_it_is_open() {
        let circuit = Circuit::new("wechat", "query", Gauge::default());
        assert_eq!(circuit.shown(0).open_since, None);
        circuit.learn(&NORMAL, "1", Some(&GatewayFault::Unauthenticated("SIGN_ERROR".to_owned())));
        let shown = circuit.shown(3);
        assert!(shown.open_since.is_some() && shown.next_probe.is_some() && shown.in_flight == 3);
        assert!(shown.fault.unwrap().contains("SIGN_ERROR"));
        assert!(circuit.admit("9").is_err());
        circuit.probe_now();
        assert!(circuit.admit("1").is_ok_and(|pass| pass.probe_of.is_some()), "a suspect, too");
        circuit.learn(&NORMAL, "1", None);
    }

    #[test]
    fn a_wrong_setting_opens_it_at_once_and_only_one_probe_goes_out() {
        let circuit = Circuit::new("wechat", "query", Gauge::default());
        let fault = GatewayFault::Unauthenticated("SIGN_ERROR".to_owned());
        assert!(!circuit.learn(&NORMAL, "1", Some(&fault)), "nobody spends an attempt on it");
        assert!(!circuit.learn(&NORMAL, "2", Some(&fault)), "those under way do not");
        assert!(circuit.admit("9").unwrap_err().contains("SIGN_ERROR"));
        let_time_pass(&circuit);
        let probe = circuit.admit("9").unwrap();
        assert!(probe.probe_of.is_some());
        assert!(circuit.admit("9").is_err(), "one at a time");
        assert!(!circuit.learn(&probe, "1", Some(&fault)));
        assert!(circuit.admit("9").is_err(), "not at once again");
        assert!(circuit.open_for().is_some());
        assert!(circuit.learn(&probe, "1", None));
        assert!(is_normal(&circuit));
        assert!(circuit.open_for().is_none());
    }

    #[test]
    fn one_order_that_the_gateway_does_not_accept_does_not_open_it_and_two_do() {
        let circuit = Circuit::new("wechat", "query", Gauge::default());
        let fault = GatewayFault::Misconfigured("PARAM_ERROR".to_owned());
        for _ in 0..3 {
            assert!(circuit.learn(&NORMAL, "1", Some(&fault)));
            assert!(is_normal(&circuit));
        }
        circuit.learn(&NORMAL, "3", None);
        circuit.learn(&NORMAL, "2", Some(&fault));
        assert!(is_normal(&circuit), "another was fine in between");
        circuit.learn(&NORMAL, "1", Some(&fault));
        assert!(circuit.admit("9").is_err());
        let_time_pass(&circuit);
        assert!(circuit.admit("1").is_err() && circuit.admit("2").is_err(), "others find out whether it is over");
        assert!(circuit.admit("9").is_ok());
    }

    #[test]
    fn single_failures_do_not_open_it_and_many_in_a_row_do() {
        let circuit = Circuit::new("wechat", "query", Gauge::default());
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                assert!(circuit.learn(&NORMAL, "1", Some(&transient())));
            }
            circuit.learn(&NORMAL, "1", None);
        }
        assert!(is_normal(&circuit));
        for _ in 0..FAILURES_MAX {
            circuit.learn(&NORMAL, "1", Some(&transient()));
        }
        assert!(is_normal(&circuit), "it may be the order's own fault");
        circuit.learn(&NORMAL, "2", Some(&transient()));
        assert!(circuit.admit("9").is_err());
    }
}
