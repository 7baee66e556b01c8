//! One attempt at one order: the close protocol at its gateway.

use std::time::{Duration, Instant};

use book::ServerTime;
use order::{GatewayAnswer, ParkReason, PaymentFacts, Prepay, Step, TradeState, Verdict, next_step};
use payment::GatewayFault;
use retry::Policy;

use crate::gateway_client::{CallKind, GatewayClient, NoAnswer};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum AttemptResult {
    /// With a verdict.
    Verdict {
        verdict: Verdict,
        /// Whether the gateway has said in it that the trade exists.
        exists: bool,
    },
    /// There was none, for this reason: the gateway cannot be asked now, about any order.
    Held(String),
}

/// Between the tries of one attempt.
const TRIES: Policy = Policy { initial: Duration::from_millis(200), max: Duration::from_secs(2) };

/// Follows the close protocol from the first query to a verdict. Transient trouble is tried anew some times, from the first
/// query on.
pub(crate) async fn attempt(client: &GatewayClient, payment: &PaymentFacts, time: ServerTime) -> AttemptResult {
    if let Err(detail) = client.gateway.check_trade_no(&payment.trade_no) {
        return verdict(Verdict::Person { reason: ParkReason::IllegalTradeNo, detail }, false);
    }
    let begun = Instant::now();
    let mut delays = TRIES.delays();
    let mut payment = payment.clone();
    let mut exists = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let fault = match follow_protocol(client, &mut payment, time, &mut exists).await {
            Ok(found) => return verdict(found, exists),
            Err(NoAnswer::Held(why)) => return AttemptResult::Held(why),
            Err(NoAnswer::Fault(fault)) => fault,
        };
        let passing = matches!(fault, GatewayFault::Transient(_) | GatewayFault::RateLimited(_));
        // Once it took so long, the next attempt is better made later: others wait behind this one.
        let slow = begun.elapsed() >= client.settings.call_timeout;
        if !passing || slow || tries >= client.settings.tries {
            return match fault {
                GatewayFault::RateLimited(_) => AttemptResult::Held(fault.to_string()),
                fault => verdict(Verdict::Unclear(fault.to_string()), exists),
            };
        }
        tokio::time::sleep(delays.next_delay()).await;
    }
}

async fn follow_protocol(
    client: &GatewayClient,
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
                let trade = client.call(CallKind::Query, &trade_no, client.gateway.query(&trade_no)).await?;
                if trade.state != TradeState::NotFound {
                    // Should the gateway deny it later: errors are not signed, this answer was.
                    (*exists, payment.prepay) = (true, Prepay::Created);
                }
                let answer = GatewayAnswer::Trade { trade: &trade, after_close };
                next_step(payment, &client.rules, &answer, time.now())
            }
            Step::Close => {
                let outcome = client.call(CallKind::Close, &trade_no, client.gateway.close(&trade_no)).await?;
                after_close = true;
                next_step(payment, &client.rules, &GatewayAnswer::Close(outcome), time.now())
            }
        };
    }
}

fn verdict(verdict: Verdict, exists: bool) -> AttemptResult {
    AttemptResult::Verdict { verdict, exists }
}
