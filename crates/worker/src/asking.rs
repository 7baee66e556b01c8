use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use order::{
    CloseRules, GatewayAnswer, OrderId, ParkReason, PaymentFacts, Prepay, Step, TradeState, Verdict, next_step,
};
use payment::{GatewayFault, PaymentGateway};
use retry::{Delays, Policy};
use tokio::sync::Semaphore;

use crate::WorkerCounters;
use crate::circuit::Circuit;
use crate::counters::add;
use crate::database_time::DatabaseTime;

/// How gateways are asked.
#[derive(Debug, Clone)]
pub struct AskSettings {
    /// How many calls to one gateway may be under way at a time.
    pub calls_in_flight_max: usize,
    /// How many calls a second one gateway gets at most; `None`: as many as it takes.
    pub calls_per_second_max: Option<NonZeroU32>,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// How often one attempt at an order begins anew because no answer came.
    pub tries: u32,
    /// Waits within the close protocol. The gateway's own minimum age comes on top.
    pub rules: CloseRules,
    /// The delays between attempts at an order.
    pub back_off: Policy,
    /// After so many attempts that came to nothing an order is parked.
    pub attempts_max: u32,
    /// How long an order waits while its gateway cannot be asked at all.
    pub hold: Duration,
    /// A trade that the gateway did not know when its order was closed is looked for once more after this time.
    pub look_again_after: Duration,
}

impl Default for AskSettings {
    fn default() -> Self {
        Self {
            calls_in_flight_max: 64,
            calls_per_second_max: NonZeroU32::new(500),
            call_timeout: Duration::from_secs(5),
            tries: 3,
            rules: CloseRules::default(),
            back_off: Policy { initial: Duration::from_secs(2), max: Duration::from_secs(600) },
            attempts_max: 60,
            hold: Duration::from_secs(30),
            look_again_after: Duration::from_secs(900),
        }
    }
}

/// The gateways that are configured, by their names.
#[derive(Clone)]
pub struct Gateways {
    desks: HashMap<String, Arc<Desk>>,
    pub(crate) settings: AskSettings,
    /// Calls and faults are counted here, and handed to the worker that asks.
    counters: Arc<WorkerCounters>,
    /// When what was last logged, of what happens again and again.
    warned_at: Arc<Mutex<HashMap<String, Instant>>>,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The attempt is over.
    Verdict {
        /// What it has shown.
        verdict: Verdict,
        /// Whether the gateway has said in it that the trade exists.
        exists: bool,
    },
    /// There was no attempt, for this reason: the gateway cannot be asked by anybody now.
    Held(String),
}

impl Asked {
    fn verdict(verdict: Verdict, exists: bool) -> Self {
        Self::Verdict { verdict, exists }
    }
}

/// Why a call gave nothing.
pub(crate) enum NoAnswer {
    /// The order's own trouble.
    Fault(GatewayFault),
    /// The gateway cannot be asked by anybody now.
    Held(String),
}

/// How often the same reason is logged.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How many reasons are logged in that time.
const WARNINGS_MAX: usize = 5;

/// Between the tries of one attempt.
const TRIES: Policy = Policy { initial: Duration::from_millis(200), max: Duration::from_secs(2) };

/// How long a gateway that complains of too many requests is left alone by everybody.
const PAUSES: Policy = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

impl Gateways {
    /// No gateway: orders are settled by their own status. Those that name a gateway all the same are held.
    #[must_use]
    pub fn none() -> Self {
        Self::new(HashMap::new(), AskSettings::default())
    }

    /// These gateways, by the names that the table of payments uses.
    #[must_use]
    pub fn new(gateways: HashMap<String, Arc<dyn PaymentGateway>>, settings: AskSettings) -> Self {
        let counters = Arc::<WorkerCounters>::default();
        let desks = gateways
            .into_iter()
            .filter(|(_, gateway)| gateway.capabilities().keeps_trades)
            .map(|(name, gateway)| {
                let desk = Desk::new(&name, gateway, &settings, Arc::clone(&counters));
                (name, Arc::new(desk))
            })
            .collect();
        Self { desks, settings, counters, warned_at: Arc::default() }
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.desks.keys().cloned().collect()
    }

    /// Where all that use these gateways count.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    pub(crate) fn desk(&self, name: &str) -> Option<&Arc<Desk>> {
        self.desks.get(name)
    }

    /// Logs why orders are held, now and then: they come back again and again.
    pub(crate) fn warn_of_held(&self, why: &str, orders: &[OrderId]) {
        if self.may_warn(why) {
            let example = orders.first().map_or("", OrderId::as_str);
            tracing::warn!(
                orders = orders.len(),
                example,
                why,
                "orders wait because their payment gateway cannot be asked"
            );
        }
    }

    /// Whether something that happens again and again is to be logged: each reason now and then.
    pub(crate) fn may_warn(&self, why: &str) -> bool {
        let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        warned_at.retain(|_, at| at.elapsed() < WARN_EVERY);
        // Reasons that differ for each order are not worth a line each.
        let may = warned_at.len() < WARNINGS_MAX && !warned_at.contains_key(why);
        if may {
            warned_at.insert(why.to_owned(), Instant::now());
        }
        may
    }

    /// How long nobody need ask, since no gateway can be asked.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let waits: Option<Vec<Duration>> =
            self.desks.values().map(|desk| desk.circuit(Kind::Query).open_for()).collect();
        waits?.into_iter().min()
    }
}

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Close,
    Refund,
    RefundQuery,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Query, Self::Close, Self::Refund, Self::RefundQuery];

    fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Close => "close",
            Self::Refund => "refund",
            Self::RefundQuery => "refund query",
        }
    }
}

/// Where one gateway is asked: so many at a time, so many a second, and not at all while it cannot help.
pub(crate) struct Desk {
    pub(crate) gateway: Arc<dyn PaymentGateway>,
    rules: CloseRules,
    call_timeout: Duration,
    tries: u32,
    places: Semaphore,
    limiter: Option<DefaultDirectRateLimiter>,
    /// In the order of [`Kind::ALL`].
    circuits: [Circuit; 4],
    pause: Mutex<Pause>,
    counters: Arc<WorkerCounters>,
}

struct Pause {
    until: Instant,
    delays: Delays,
}

impl Desk {
    fn new(
        name: &str,
        gateway: Arc<dyn PaymentGateway>,
        settings: &AskSettings,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let min_close_age = settings.rules.min_close_age.max(gateway.capabilities().min_close_age);
        Self {
            gateway,
            rules: CloseRules { min_close_age, ..settings.rules },
            call_timeout: settings.call_timeout,
            tries: settings.tries,
            places: Semaphore::new(settings.calls_in_flight_max),
            // Evenly spread: a second's calls at once are what gateways complain of.
            limiter: settings
                .calls_per_second_max
                .map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(rate.min(BURST)))),
            circuits: Kind::ALL.map(|kind| Circuit::new(name, kind.as_str(), Arc::clone(&counters))),
            pause: Mutex::new(Pause { until: Instant::now(), delays: PAUSES.delays() }),
            counters,
        }
    }

    /// One attempt at one order: the close protocol, from the first query to a verdict. What is transient is tried
    /// anew some times, from the first query on.
    pub(crate) async fn ask(&self, payment: &PaymentFacts, time: DatabaseTime) -> Asked {
        if let Err(detail) = self.gateway.check_trade_no(&payment.trade_no) {
            return Asked::verdict(Verdict::Person { reason: ParkReason::IllegalTradeNo, detail }, false);
        }
        let begun = Instant::now();
        let mut delays = TRIES.delays();
        let mut payment = payment.clone();
        let mut exists = false;
        for attempt in 1.. {
            let fault = match self.follow_protocol(&mut payment, time, &mut exists).await {
                Ok(verdict) => return Asked::verdict(verdict, exists),
                Err(NoAnswer::Held(why)) => return Asked::Held(why),
                Err(NoAnswer::Fault(fault)) => fault,
            };
            let again = matches!(fault, GatewayFault::Transient(_) | GatewayFault::RateLimited(_));
            // Once it took so long, the next attempt is better made later: others wait behind this one.
            let slow = begun.elapsed() >= self.call_timeout;
            if !again || slow || attempt >= self.tries {
                return match fault {
                    GatewayFault::RateLimited(_) => Asked::Held(fault.to_string()),
                    fault => Asked::verdict(Verdict::Unclear(fault.to_string()), exists),
                };
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
        unreachable!("the tries end")
    }

    /// The rules by which its answers are judged.
    pub(crate) fn rules(&self) -> &CloseRules {
        &self.rules
    }

    async fn follow_protocol(
        &self,
        payment: &mut PaymentFacts,
        time: DatabaseTime,
        exists: &mut bool,
    ) -> Result<Verdict, NoAnswer> {
        let trade_no = payment.trade_no.clone();
        let mut after_close = false;
        let mut step = next_step(payment, &self.rules, &GatewayAnswer::Nothing, time.now());
        loop {
            step = match step {
                Step::Conclude(verdict) => return Ok(verdict),
                Step::Query => {
                    let trade = self.call(Kind::Query, &trade_no, self.gateway.query(&trade_no)).await?;
                    if trade.state != TradeState::NotFound {
                        // Should the gateway deny it later: errors are not signed, this answer was.
                        (*exists, payment.prepay) = (true, Prepay::Created);
                    }
                    next_step(payment, &self.rules, &GatewayAnswer::Trade { trade: &trade, after_close }, time.now())
                }
                Step::Close => {
                    let outcome = self.call(Kind::Close, &trade_no, self.gateway.close(&trade_no)).await?;
                    after_close = true;
                    next_step(payment, &self.rules, &GatewayAnswer::Close(outcome), time.now())
                }
            };
        }
    }

    /// One call about a trade or a refund of this number, when its turn has come.
    pub(crate) async fn call<T>(
        &self,
        kind: Kind,
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
        let counters = &self.counters;
        add(&counters.gateway_calls, 1);
        let in_flight = counters.enter();
        let answer = tokio::time::timeout(self.call_timeout, call).await;
        drop(in_flight);
        let answer = answer.unwrap_or_else(|_| {
            Err(GatewayFault::Transient(format!("nothing within {} ms", self.call_timeout.as_millis())))
        });
        if let Err(fault) = &answer {
            add(&counters.gateway_faults, 1);
            tracing::debug!(kind = fault.kind(), %fault, "a call to the payment gateway gave nothing");
        }
        self.mind_the_pause(answer.as_ref().err());
        let own = circuit.learn(&pass, about, answer.as_ref().err());
        answer.map_err(|fault| if own { NoAnswer::Fault(fault) } else { NoAnswer::Held(fault.to_string()) })
    }

    fn circuit(&self, kind: Kind) -> &Circuit {
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

    /// Too many requests: everybody leaves the gateway alone for a while, longer each time.
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

/// How many calls may go out in one moment where their rate is limited.
const BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
