use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use payment::GatewayFault;
use retry::{Delays, Policy};

/// Keeps a gateway that cannot help now from being asked for every order.
///
/// It opens at once when the gateway does not accept who we are or what we ask, since that is true of every order;
/// and when many calls in a row, whoever made them, got no answer that could be used. While it is open one call
/// at a time finds out whether the trouble is over, and no order spends an attempt.
#[derive(Debug)]
pub(crate) struct Circuit {
    gateway: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Calls in a row without an answer that could be used.
        failures: u32,
    },
    Open {
        fault: String,
        delays: Delays,
        next_probe: Instant,
        probing: bool,
    },
}

/// Leave to make a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// As ever.
    Normal,
    /// To find out whether the trouble is over.
    Probe,
}

/// After so many calls in a row without an answer that could be used, the gateway counts as away.
const FAILURES_MAX: u32 = 20;

/// How often an open circuit tries.
const PROBES: Policy = Policy { initial: Duration::from_millis(500), max: Duration::from_secs(10) };

impl Circuit {
    pub(crate) fn new(gateway: &str) -> Self {
        Self { gateway: gateway.to_owned(), state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Leave to make a call; without, the reason.
    pub(crate) fn admit(&self) -> Result<Pass, String> {
        match &mut *self.state() {
            State::Closed { .. } => Ok(Pass::Normal),
            State::Open { next_probe, probing, .. } if !*probing && Instant::now() >= *next_probe => {
                *probing = true;
                Ok(Pass::Probe)
            }
            State::Open { fault, .. } => Err(fault.clone()),
        }
    }

    /// Learns how a call went (`None`: well). Says whether its failure is the order's own: it is not, if all orders
    /// share it.
    pub(crate) fn learn(&self, pass: &Pass, fault: Option<&GatewayFault>) -> bool {
        let mut state = self.state();
        let setting = matches!(fault, Some(GatewayFault::Unauthenticated(_) | GatewayFault::Misconfigured(_)));
        let unusable = matches!(fault, Some(GatewayFault::Transient(_) | GatewayFault::Protocol(_)));
        match &mut *state {
            State::Closed { failures } if setting || unusable => {
                *failures += 1;
                if setting || *failures >= FAILURES_MAX {
                    let fault = fault.map(ToString::to_string).unwrap_or_default();
                    tracing::error!(
                        gateway = self.gateway,
                        fault,
                        "the payment gateway is not asked any more, and no order with a payment there changes, until it answers"
                    );
                    *state = open(fault);
                }
                true
            }
            State::Closed { failures } => {
                if fault.is_none() {
                    *failures = 0;
                }
                true
            }
            State::Open { fault: known, delays, next_probe, probing } => {
                if *pass == Pass::Normal {
                    // It was under way when the circuit opened.
                    return fault.is_none();
                }
                *probing = false;
                if setting || unusable || matches!(fault, Some(GatewayFault::RateLimited(_))) {
                    let delay = delays.next_delay();
                    *next_probe = Instant::now() + delay;
                    *known = fault.map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(
                        gateway = self.gateway,
                        fault = known,
                        retry_in_ms = delay.as_millis(),
                        "the payment gateway cannot be asked still"
                    );
                    return false;
                }
                tracing::info!(gateway = self.gateway, "the payment gateway answers again");
                *state = State::Closed { failures: 0 };
                true
            }
        }
    }

    /// How long nobody need ask; `None`: asking is fine.
    pub(crate) fn open_for(&self) -> Option<Duration> {
        match &*self.state() {
            State::Closed { .. } => None,
            State::Open { next_probe, .. } => Some(next_probe.saturating_duration_since(Instant::now())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(fault: String) -> State {
    let mut delays = PROBES.delays();
    let next_probe = Instant::now() + delays.next_delay();
    State::Open { fault, delays, next_probe, probing: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient() -> GatewayFault {
        GatewayFault::Transient("timeout".to_owned())
    }

    #[test]
    fn a_wrong_setting_opens_it_at_once_and_only_one_probe_goes_out() {
        let circuit = Circuit::new("wechat");
        let fault = GatewayFault::Unauthenticated("SIGN_ERROR".to_owned());
        assert!(circuit.learn(&Pass::Normal, Some(&fault)), "the first spends an attempt: it might be its own fault");
        assert!(!circuit.learn(&Pass::Normal, Some(&fault)), "those under way do not");
        assert!(circuit.admit().unwrap_err().contains("SIGN_ERROR"));
        if let State::Open { next_probe, .. } = &mut *circuit.state() {
            *next_probe = Instant::now();
        }
        assert_eq!(circuit.admit(), Ok(Pass::Probe));
        assert!(circuit.admit().is_err(), "one at a time");
        assert!(!circuit.learn(&Pass::Probe, Some(&fault)));
        assert!(circuit.admit().is_err(), "not at once again");
        assert!(circuit.open_for().is_some());
        assert!(circuit.learn(&Pass::Probe, None));
        assert_eq!(circuit.admit(), Ok(Pass::Normal));
        assert!(circuit.open_for().is_none());
    }

    #[test]
    fn single_failures_do_not_open_it_and_many_in_a_row_do() {
        let circuit = Circuit::new("wechat");
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                assert!(circuit.learn(&Pass::Normal, Some(&transient())));
            }
            circuit.learn(&Pass::Normal, None);
        }
        assert_eq!(circuit.admit(), Ok(Pass::Normal));
        for _ in 0..FAILURES_MAX {
            circuit.learn(&Pass::Normal, Some(&transient()));
        }
        assert!(circuit.admit().is_err());
    }
}
