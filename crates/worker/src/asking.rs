use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use book::ServerTime;
use order::{OrderId, PaymentFacts, Verdict};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::answer::Question;
use crate::attempt::{AttemptResult, attempt};
use crate::gateway_client::GatewayClient;
use crate::gateways::Gateways;
use crate::patience::Interrupted;

/// The gateways that are being asked for one batch: the orders side by side, the trades of each one after another. Ends all
/// attempts when dropped.
pub(crate) struct Asking<'a> {
    gateways: &'a Gateways,
    under_way: JoinSet<(OrderId, Vec<AttemptResult>)>,
    unanswered: HashMap<OrderId, Vec<Question>>,
    give_up_at: Instant,
}

/// How long the gateways are asked for one batch. An order that had no turn in this time comes again.
pub(crate) const ASKING_MAX: Duration = Duration::from_secs(300);

impl<'a> Asking<'a> {
    pub(crate) fn new(gateways: &'a Gateways) -> Self {
        let give_up_at = Instant::now() + ASKING_MAX;
        Self { gateways, under_way: JoinSet::new(), unanswered: HashMap::new(), give_up_at }
    }

    /// Begins to ask this about an order, at the book's time.
    pub(crate) fn ask(&mut self, id: OrderId, questions: Vec<Question>, time: ServerTime) {
        let payments: Vec<PaymentFacts> = questions.iter().map(|question| question.payment.clone()).collect();
        let span =
            tracing::info_span!(target: trace::TARGET, "ask gateway", order = %id, gateway = payments[0].gateway);
        self.unanswered.insert(id.clone(), questions);
        let clients = payments.iter().map(|payment| self.gateways.client(&payment.gateway).map(Arc::clone));
        let clients: Vec<Option<Arc<GatewayClient>>> = clients.collect();
        let asking = async move {
            let mut results = Vec::with_capacity(payments.len());
            for (payment, client) in payments.iter().zip(clients) {
                results.push(match client {
                    Some(client) => attempt(&client, &id, payment, time).await,
                    None => held(format!("no payment gateway called {} is configured here", payment.gateway)),
                });
            }
            (id, results)
        };
        self.under_way.spawn(asking.instrument(span));
    }

    /// Waits for an answer, and takes with it the others that have come in. None: nothing is being asked any more.
    pub(crate) async fn next(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<Vec<(Question, AttemptResult)>, Interrupted> {
        let mut answered = Vec::new();
        if self.under_way.is_empty() {
            return Ok(answered);
        }
        let mut next = tokio::select! {
            next = self.under_way.join_next() => next,
            () = tokio::time::sleep_until(self.give_up_at.into()) => return Ok(self.give_up()),
            () = shutdown.cancelled() => return Err(Interrupted),
        };
        while let Some(joined) = next {
            let (id, result) = joined.map_err(resume_panic)?;
            answered.extend(self.unanswered.remove(&id).unwrap_or_default().into_iter().zip(result));
            next = self.under_way.try_join_next();
        }
        Ok(answered)
    }

    fn give_up(&mut self) -> Vec<(Question, AttemptResult)> {
        self.under_way = JoinSet::new();
        let no_turn = || held("the gateway is so slow that the order had no turn".to_owned());
        self.unanswered.drain().flat_map(|(_, questions)| questions).map(|question| (question, no_turn())).collect()
    }
}

fn held(why: String) -> AttemptResult {
    AttemptResult { verdict: Verdict::Held(why), exists: false }
}

/// A panic in an attempt is a panic of the pipeline. Attempts end otherwise only together with this.
fn resume_panic(error: JoinError) -> Interrupted {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Interrupted
}

#[cfg(test)]
mod tests {
    use book::ServerTime;
    use order::TradeState;

    use super::*;
    use crate::fakes::{FakeGateway, deadline, gateways, id, now, payment_facts};

    fn question(name: &str) -> Question {
        Question { id: id(name), deadline: deadline(), payment: payment_facts(), asked_at: now() }
    }

    #[tokio::test]
    async fn answers_come_as_they_come_in_and_then_there_are_none() {
        let gateways = gateways(FakeGateway::in_state(TradeState::Closed));
        let mut asking = Asking::new(&gateways);
        for name in ["1", "2", "3"] {
            asking.ask(id(name), vec![question(name)], ServerTime::from(now()));
        }
        let stop = CancellationToken::new();
        let mut answered = Vec::new();
        loop {
            let next = asking.next(&stop).await.unwrap();
            if next.is_empty() {
                break;
            }
            for (question, result) in next {
                assert_eq!(result.verdict, Verdict::Unpaid);
                answered.push(question.id.to_string());
            }
        }
        answered.sort();
        assert_eq!(answered, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn orders_that_had_no_turn_in_time_are_held() {
        let gateway = FakeGateway { gate: CancellationToken::new(), ..FakeGateway::in_state(TradeState::Closed) };
        let gateways = gateways(gateway);
        let mut asking = Asking::new(&gateways);
        asking.ask(id("1"), vec![question("1")], ServerTime::from(now()));
        asking.give_up_at = Instant::now();
        let stop = CancellationToken::new();
        let held = asking.next(&stop).await.unwrap();
        assert!(matches!(held.as_slice(), [(_, AttemptResult { verdict: Verdict::Held(_), .. })]), "{held:?}");
        assert!(asking.next(&stop).await.unwrap().is_empty(), "nothing is being asked any more");
    }

    #[tokio::test]
    async fn a_program_that_stops_waits_for_no_gateway() {
        let gateway = FakeGateway { gate: CancellationToken::new(), ..FakeGateway::in_state(TradeState::Closed) };
        let gateways = gateways(gateway);
        let mut asking = Asking::new(&gateways);
        asking.ask(id("1"), vec![question("1")], ServerTime::from(now()));
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(asking.next(&stop).await.is_err());
    }
}
