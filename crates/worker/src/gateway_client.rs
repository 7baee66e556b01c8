use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use book::{CircuitState, Trail, TrailStep};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use order::{CloseRules, OrderId};
use payment::{GatewayFault, PaymentGateway};
use retry::{Delays, Policy};
use tokio::sync::Semaphore;

use crate::circuit::Circuit;
use crate::gateway_settings::GatewaySettings;
use crate::metrics::WorkerMetrics;

/// One gateway, called within bounds: so many calls at a time, so many a second, none while it cannot help.
pub(crate) struct GatewayClient {
    name: String,
    pub(crate) gateway: Arc<dyn PaymentGateway>,
    /// The times of the close protocol, with the gateway's own minimum age.
    pub(crate) rules: CloseRules,
    pub(crate) settings: GatewaySettings,
    places: Semaphore,
    limiter: Option<DefaultDirectRateLimiter>,
    /// In the order of [`CallKind::ALL`].
    circuits: [Circuit; 4],
    pause: Mutex<Pause>,
    metrics: WorkerMetrics,
    trail: Trail,
}

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Query,
    Close,
    Refund,
    RefundQuery,
}

/// Why a call gave nothing.
pub(crate) enum NoAnswer {
    /// The order's own trouble.
    Fault(GatewayFault),
    /// The gateway cannot be asked now, about any order.
    Held(String),
}

struct Pause {
    until: Instant,
    delays: Delays,
}

/// How long a gateway that complains of too many requests is left alone.
const PAUSES: Policy = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

/// How many calls may go out in one moment where their rate is limited. A second's calls at once are what gateways complain
/// of.
const BURST: std::num::NonZeroU32 = std::num::NonZeroU32::new(10).unwrap();

impl CallKind {
    const ALL: [Self; 4] = [Self::Query, Self::Close, Self::Refund, Self::RefundQuery];

    fn is_of_refund(self) -> bool {
        matches!(self, Self::Refund | Self::RefundQuery)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Close => "close",
            Self::Refund => "refund",
            Self::RefundQuery => "refund query",
        }
    }
}

impl GatewayClient {
    pub(crate) fn new(
        name: &str,
        gateway: Arc<dyn PaymentGateway>,
        settings: &GatewaySettings,
        metrics: WorkerMetrics,
        trail: Trail,
    ) -> Self {
        let min_close_age = settings.rules.min_close_age.max(gateway.min_close_age());
        let payable_for = settings.rules.payable_for.max(gateway.payable_for());
        let limiter = settings
            .calls_per_second_max
            .map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(rate.min(BURST))));
        Self {
            name: name.to_owned(),
            gateway,
            rules: CloseRules { min_close_age, payable_for, ..settings.rules },
            settings: settings.clone(),
            places: Semaphore::new(settings.calls_in_flight_max),
            limiter,
            circuits: CallKind::ALL
                .map(|kind| Circuit::new(name, kind.as_str(), metrics.gateway_circuits_open.clone())),
            pause: Mutex::new(Pause { until: Instant::now(), delays: PAUSES.delays() }),
            metrics,
            trail,
        }
    }

    /// Tells what the gateway has said of an order.
    pub(crate) fn tell(&self, step: TrailStep, order: &OrderId, said: &str) {
        self.trail.tell(step, &self.name, std::iter::once(order.as_str()), said);
    }

    /// One call about a trade or a refund of this number, when its turn has come.
    pub(crate) async fn call<T>(
        &self,
        kind: CallKind,
        about: &str,
        call: impl Future<Output = Result<T, GatewayFault>>,
    ) -> Result<T, NoAnswer> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let circuit = self.circuit(kind);
        let pass = circuit.admit(about).map_err(NoAnswer::Held)?;
        self.wait_out_pause().await;
        if let Some(limiter) = &self.limiter {
            limiter.until_ready().await;
        }
        self.metrics.gateway_calls.inc();
        let in_flight = self.metrics.enter_gateway();
        let limit = self.settings.call_timeout;
        let answer = tokio::time::timeout(limit, call).await;
        drop(in_flight);
        let silent = || GatewayFault::Transient(format!("nothing within {} ms", limit.as_millis()));
        let answer = answer.unwrap_or_else(|_| Err(silent()));
        if let Err(fault) = &answer {
            self.metrics.gateway_faults.inc();
            tracing::debug!(kind = fault.kind(), %fault, "a call to the payment gateway gave nothing");
        }
        self.mind_the_pause(answer.as_ref().err());
        let own = match &answer {
            // Of refunds, gateways say the same of one that is not possible any more: part of its money went back by hand.
            Err(GatewayFault::Misconfigured(_)) if kind.is_of_refund() => true,
            answer => circuit.learn(&pass, about, answer.as_ref().err()),
        };
        answer.map_err(|fault| if own { NoAnswer::Fault(fault) } else { NoAnswer::Held(fault.to_string()) })
    }

    /// How long it makes no sense to ask how trades stand; `None`: asking is fine.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        self.circuit(CallKind::Query).open_for()
    }

    /// Its circuit breakers, one for each kind of call.
    pub(crate) fn circuits(&self) -> impl Iterator<Item = CircuitState> {
        let in_flight = self.settings.calls_in_flight_max.saturating_sub(self.places.available_permits());
        self.circuits.iter().map(move |circuit| circuit.shown(in_flight as u64))
    }

    /// Has those that are open find out with the next call whether the trouble is over.
    pub(crate) fn probe_now(&self) {
        self.circuits.iter().for_each(Circuit::probe_now);
    }

    fn circuit(&self, kind: CallKind) -> &Circuit {
        &self.circuits[kind as usize]
    }

    async fn wait_out_pause(&self) {
        loop {
            let until = self.pause.lock().unwrap_or_else(PoisonError::into_inner).until;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Too many requests: the gateway is left alone for a while, longer each time.
    fn mind_the_pause(&self, fault: Option<&GatewayFault>) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(GatewayFault::RateLimited(_)) if pause.until <= Instant::now() => {
                let delay = pause.delays.next_delay();
                tracing::warn!(pause_ms = delay.as_millis(), "the payment gateway gets too many requests");
                pause.until = Instant::now() + delay;
            }
            None => pause.delays.reset(),
            Some(_) => {}
        }
    }
}
