//! What a batch leads to besides what is written: messages, all confirmed before the batch is acked.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use broker::{Batch, Incoming, Outgoing, wire};
use order::{Deadline, OrderId, coalesce};
use retry::Policy;
use time::OffsetDateTime;

use crate::counters::add;
use crate::database_time::DatabaseTime;
use crate::pipeline::{ASKED_TOGETHER_MAX, Interrupted, Pipeline};
use crate::settling::{Again, Outcome, Settled};

/// What must be published before a batch may be acked. Lanes are chosen when it is sent, which may be long after
/// it was decided.
pub(crate) enum FollowUp {
    /// Orders that wait longer, due within the window of each other; latest due last.
    Wait(Vec<(OrderId, Deadline)>),
    /// Orders whose gateways are to be asked.
    HandOver(Vec<(OrderId, Deadline)>),
    /// Orders whose gateways are to be asked again, not before a time.
    Again { orders: Vec<(OrderId, Deadline)>, attempt: u32, at: OffsetDateTime },
    /// What is set aside.
    Park(Box<Outgoing>),
}

/// Orders that are to be asked again within this time of each other may share a message.
const AGAIN_WINDOW: Duration = Duration::from_secs(1);

impl Pipeline {
    /// What the outcomes lead to.
    pub(crate) fn follow_ups(&self, batch: &Batch, settled: &Settled) -> Vec<FollowUp> {
        let now = settled.time.now();
        let (mut waiting, mut handed_over) = (Vec::new(), Vec::new());
        for (id, outcome) in &settled.outcomes {
            match outcome {
                Outcome::Waiting(deadline) => waiting.push((id.clone(), *deadline)),
                Outcome::HandedOver(deadline) => handed_over.push((id.clone(), *deadline)),
                _ => {}
            }
        }
        let waiting = coalesce(waiting, |(_, due)| *due, now, self.settings.window, wire::ORDERS_MAX);
        let parked: Vec<Outgoing> =
            batch.messages().iter().flat_map(|message| parked(message, &settled.outcomes)).collect();
        add(&self.counters.parked, parked.len());
        let handed_over = handed_over.chunks(ASKED_TOGETHER_MAX).map(|chunk| FollowUp::HandOver(chunk.to_vec()));
        (waiting.into_iter().map(FollowUp::Wait))
            .chain(handed_over)
            .chain(again(&settled.again, now))
            .chain(parked.into_iter().map(Box::new).map(FollowUp::Park))
            .collect()
    }

    /// Publishes until everything is confirmed and routed; what the broker has already is not sent again.
    pub(crate) async fn publish(
        &mut self,
        mut follow_ups: Vec<FollowUp>,
        time: DatabaseTime,
    ) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        while !follow_ups.is_empty() {
            let now = time.now();
            let messages: Vec<Outgoing> = follow_ups.iter().map(|follow_up| self.message(follow_up, now)).collect();
            let fates = self.publisher.publish(&messages).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err()).map(ToString::to_string);
            let mut fates = fates.into_iter();
            follow_ups.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                self.wait(&mut delays, "what a batch leads to cannot be published", &error).await?;
            }
        }
        Ok(())
    }

    fn message(&self, follow_up: &FollowUp, now: OffsetDateTime) -> Outgoing {
        match follow_up {
            FollowUp::Park(message) => Outgoing::clone(message),
            FollowUp::Wait(group) => {
                let remaining = group.last().map_or(Duration::ZERO, |(_, latest)| latest.remaining(now));
                Outgoing::payment_timeout(group, self.lanes.choose(remaining))
            }
            FollowUp::HandOver(orders) => Outgoing::gateway_check(orders),
            FollowUp::Again { orders, attempt, at } => {
                let wait = Duration::try_from(*at - now).unwrap_or_default();
                Outgoing::later_gateway_check(orders, self.lanes.at_least(wait), *attempt)
            }
        }
    }
}

/// A message counts attempts for all its orders, so only orders with as many share one.
fn again(orders: &[Again], now: OffsetDateTime) -> Vec<FollowUp> {
    let mut by_attempt: BTreeMap<u32, Vec<&Again>> = BTreeMap::new();
    for order in orders {
        by_attempt.entry(order.attempt).or_default().push(order);
    }
    let mut follow_ups = Vec::new();
    for (attempt, orders) in by_attempt {
        for group in coalesce(orders, |order| Deadline::at(order.at), now, AGAIN_WINDOW, ASKED_TOGETHER_MAX) {
            let at = group.last().map_or(now, |latest| latest.at);
            let orders = group.into_iter().map(|order| (order.id.clone(), order.deadline)).collect();
            follow_ups.push(FollowUp::Again { orders, attempt, at });
        }
    }
    follow_ups
}

/// What of this message is set aside: all of it if it cannot be understood, else each entry that names no
/// order or an order that cannot be handled.
fn parked(message: &Incoming, outcomes: &HashMap<OrderId, Outcome>) -> Vec<Outgoing> {
    let content = match &message.content {
        Ok(content) => content,
        Err(fault) => return vec![message.parked(fault.code(), &fault.to_string())],
    };
    let bad_entries =
        content.bad_entries.iter().map(|bad| message.parked_entry(&bad.json, bad.fault.code(), &bad.fault.to_string()));
    // An order that the message names twice is parked once.
    let refused: BTreeMap<&OrderId, _> = content
        .orders
        .iter()
        .filter_map(|id| match outcomes.get(id) {
            Some(Outcome::Parked { reason, detail }) => Some((id, (*reason, detail))),
            _ => None,
        })
        .collect();
    let refused = refused.into_iter().map(|(id, (reason, detail))| {
        // An order ID needs no escaping in JSON.
        message.parked_entry(&format!("{{\"id\":\"{id}\"}}"), reason, detail)
    });
    bad_entries.chain(refused).collect()
}
