//! One attempt at one order: the close protocol at its gateway.

use std::time::{Duration, Instant};

use book::{ServerTime, TrailStep};
use order::{
    CloseOutcome, GatewayAnswer, OrderId, ParkReason, PaymentFacts, Prepay, Step, Trade, TradeState, Verdict, next_step,
};
use payment::GatewayFault;
use retry::Policy;

use crate::gateway_client::{CallKind, GatewayClient, NoAnswer};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct AttemptResult {
    pub(crate) verdict: Verdict,
    /// Whether the gateway has said in it that the trade exists.
    pub(crate) exists: bool,
}

/// Between the tries of one attempt.
const TRIES: Policy = Policy { initial: Duration::from_millis(200), max: Duration::from_secs(2) };

/// Follows the close protocol from the first query to a verdict. Transient trouble is tried anew some times, from the first
/// query on.
pub(crate) async fn attempt(
    client: &GatewayClient,
    order: &OrderId,
    payment: &PaymentFacts,
    time: ServerTime,
) -> AttemptResult {
    if let Err(detail) = client.gateway.check_trade_no(&payment.trade_no) {
        return AttemptResult { verdict: Verdict::person(ParkReason::IllegalTradeNo, detail), exists: false };
    }
    let begun = Instant::now();
    let mut delays = TRIES.delays();
    let mut payment = payment.clone();
    let mut exists = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let fault = match follow_protocol(client, order, &mut payment, time, &mut exists).await {
            Ok(verdict) => return AttemptResult { verdict, exists },
            Err(NoAnswer::Held(why)) => return AttemptResult { verdict: Verdict::Held(why), exists },
            Err(NoAnswer::Fault(fault)) => fault,
        };
        let passing = matches!(fault, GatewayFault::Transient(_) | GatewayFault::RateLimited(_));
        // Once it took so long, the next attempt is better made later: others wait behind this one.
        let slow = begun.elapsed() >= client.settings.call_timeout;
        if !passing || slow || tries >= client.settings.tries {
            let why = fault.to_string();
            let verdict = match fault {
                GatewayFault::RateLimited(_) => Verdict::Held(why),
                _ => Verdict::Unclear(why),
            };
            return AttemptResult { verdict, exists };
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}

async fn follow_protocol(
    client: &GatewayClient,
    order: &OrderId,
    payment: &mut PaymentFacts,
    time: ServerTime,
    exists: &mut bool,
) -> Result<Verdict, NoAnswer> {
    let trade_no = payment.trade_no.clone();
    let mut after_close = false;
    let mut step = next_step(payment, &client.rules, &GatewayAnswer::Nothing, time.now());
    loop {
        step = match step {
            Step::Conclude(verdict) => return Ok(verdict),
            Step::Query => {
                let trade = client.call(CallKind::Query, &trade_no, client.gateway.query(&trade_no)).await;
                let trade = told(client, order, &trade_no, "query", trade, state)?;
                if trade.state != TradeState::NotFound {
                    // Should the gateway deny it later: errors are not signed, this answer was.
                    (*exists, payment.prepay) = (true, Prepay::Created);
                }
                let answer = GatewayAnswer::Trade { trade: &trade, after_close };
                next_step(payment, &client.rules, &answer, time.now())
            }
            Step::Close => {
                let outcome = client.call(CallKind::Close, &trade_no, client.gateway.close(&trade_no)).await;
                let outcome = told(client, order, &trade_no, "close", outcome, |outcome| closed(*outcome).to_owned())?;
                after_close = true;
                next_step(payment, &client.rules, &GatewayAnswer::Close(outcome), time.now())
            }
        };
    }
}

/// Has it written down what the gateway has said.
fn told<T>(
    client: &GatewayClient,
    order: &OrderId,
    trade_no: &str,
    call: &str,
    answer: Result<T, NoAnswer>,
    said: impl Fn(&T) -> String,
) -> Result<T, NoAnswer> {
    let text = match &answer {
        Ok(answer) => said(answer),
        Err(NoAnswer::Fault(fault)) => format!("no usable answer: {fault}"),
        Err(NoAnswer::Held(why)) => format!("could not be asked: {why}"),
    };
    client.tell(TrailStep::Asked, order, &format!("{call} {trade_no}: {text}"));
    answer
}

pub(crate) fn state(trade: &Trade) -> String {
    let state = match &trade.state {
        TradeState::NotPaid => "not paid",
        TradeState::UserPaying => "the customer is paying",
        TradeState::Authorized => "authorized, not captured",
        TradeState::Paid => "paid",
        TradeState::Closed => "closed",
        TradeState::Refunded => "refunded",
        TradeState::Failed => "a payment failed",
        TradeState::Revoked => "revoked",
        TradeState::NotFound => "no such trade",
        TradeState::Unrecognized(name) => return format!("{name:?}, a state that is not known here"),
    };
    let transaction = trade.transaction_id.as_ref().map(|id| format!(", transaction {id}"));
    format!("{state}{}", transaction.unwrap_or_default())
}

fn closed(outcome: CloseOutcome) -> &'static str {
    match outcome {
        CloseOutcome::Accepted => "accepted",
        CloseOutcome::AlreadyClosed => "it was closed before",
        CloseOutcome::AlreadyPaid => "too late, it was paid",
        CloseOutcome::InProgress => "the customer is paying",
        CloseOutcome::NotFound => "no such trade",
        CloseOutcome::TooEarly => "too young to be closed",
        CloseOutcome::Unsupported => "this gateway closes no trades",
    }
}
