//! What a batch leads to besides what is written: messages, all confirmed before the batch is acked.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use broker::{Batch, Incoming, Outgoing, wire};
use order::{Attempts, Deadline, Hop, OrderId, TimeoutKind, coalesce};
use retry::Policy;
use time::OffsetDateTime;

use crate::database_time::DatabaseTime;
use crate::pipeline::{ASKED_TOGETHER_MAX, Pipeline};
use crate::settling::{Again, Interrupted, Outcome, Settled};

/// What must be published before a batch may be acked. Lanes are chosen when it is sent, which may be long after
/// it was decided.
pub(crate) enum FollowUp<'a> {
    /// Orders that wait longer, due within the window of each other; latest due last.
    Wait(Vec<(OrderId, Deadline)>),
    /// Orders whose gateways are to be asked.
    HandOver(Vec<(OrderId, Deadline)>),
    /// Orders whose gateways are to be asked again, not before a time.
    Again { orders: Vec<(OrderId, Deadline)>, tried: Attempts, at: OffsetDateTime },
    /// Orders of a message that are to be looked at again, not before a time.
    LookAgain { message: &'a Incoming, orders: Vec<OrderId>, tried: Attempts, at: OffsetDateTime },
    /// What is set aside.
    Park(Box<Outgoing>),
}

/// Orders that are to be asked again within this time of each other may share a message.
const AGAIN_WINDOW: Duration = Duration::from_secs(1);

impl Pipeline {
    /// What the outcomes lead to.
    pub(crate) fn follow_ups<'a>(&self, batch: &'a Batch, settled: &Settled) -> Vec<FollowUp<'a>> {
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
        let handed_over = handed_over.chunks(ASKED_TOGETHER_MAX).map(|chunk| FollowUp::HandOver(chunk.to_vec()));
        (waiting.into_iter().map(FollowUp::Wait))
            .chain(handed_over)
            .chain(again(&settled.again, now))
            .chain(batch.messages().iter().filter_map(|message| look_again(message, &settled.outcomes)))
            .chain(parked.into_iter().map(Box::new).map(FollowUp::Park))
            .collect()
    }

    /// Publishes until everything is confirmed and routed; what the broker has already is not sent again.
    pub(crate) async fn publish(
        &mut self,
        mut follow_ups: Vec<FollowUp<'_>>,
        time: DatabaseTime,
    ) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        while !follow_ups.is_empty() {
            let now = time.now();
            let traceparent = self.settler.traceparent.as_ref();
            let messages: Vec<Outgoing> =
                follow_ups.iter().map(|follow_up| self.message(follow_up, now).traced(traceparent)).collect();
            let fates = self.publisher.publish(&messages).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err()).map(ToString::to_string);
            let mut fates = fates.into_iter();
            follow_ups.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                self.settler.wait(&mut delays, "what a batch leads to cannot be published", &error).await?;
            }
        }
        Ok(())
    }

    fn message(&self, follow_up: &FollowUp<'_>, now: OffsetDateTime) -> Outgoing {
        match follow_up {
            FollowUp::Park(message) => Outgoing::clone(message),
            FollowUp::Wait(group) => {
                let remaining = group.last().map_or(Duration::ZERO, |(_, latest)| latest.remaining(now));
                Outgoing::timeout(TimeoutKind::Payment, group, self.lanes.choose(remaining), self.shard)
            }
            FollowUp::HandOver(orders) => Outgoing::due_now(TimeoutKind::Gateway, orders, self.shard),
            FollowUp::Again { orders, tried, at } => {
                Outgoing::timeout(TimeoutKind::Gateway, orders, self.hop_until(*at, now), self.shard).after(tried)
            }
            FollowUp::LookAgain { message, orders, tried, at } => {
                message.again(orders, self.hop_until(*at, now), tried)
            }
        }
    }

    fn hop_until(&self, at: OffsetDateTime, now: OffsetDateTime) -> Hop {
        self.lanes.at_least(Duration::try_from(at - now).unwrap_or_default())
    }
}

/// A message counts attempts for all its orders, so only orders with the same share one.
fn again(orders: &[Again], now: OffsetDateTime) -> Vec<FollowUp<'static>> {
    let mut by_attempts: BTreeMap<&Attempts, Vec<&Again>> = BTreeMap::new();
    for order in orders {
        by_attempts.entry(&order.tried).or_default().push(order);
    }
    let mut follow_ups = Vec::new();
    for (tried, orders) in by_attempts {
        for group in coalesce(orders, |order| Deadline::at(order.at), now, AGAIN_WINDOW, ASKED_TOGETHER_MAX) {
            let at = group.last().map_or(now, |latest| latest.at);
            let orders = group.into_iter().map(|order| (order.id.clone(), order.deadline)).collect();
            follow_ups.push(FollowUp::Again { orders, tried: tried.clone(), at });
        }
    }
    follow_ups
}

/// The orders of this message that are to be looked at again. They go on together, since they came together.
fn look_again<'a>(message: &'a Incoming, outcomes: &HashMap<OrderId, Outcome>) -> Option<FollowUp<'a>> {
    let content = message.content.as_ref().ok()?;
    let mut latest: Option<(&Attempts, OffsetDateTime)> = None;
    let mut orders = Vec::new();
    for id in &content.orders {
        let Some(Outcome::LookAgain { tried, at }) = outcomes.get(id) else { continue };
        if !orders.contains(id) {
            orders.push(id.clone());
        }
        if latest.is_none_or(|(_, latest)| *at > latest) {
            latest = Some((tried, *at));
        }
    }
    latest.map(|(tried, at)| FollowUp::LookAgain { message, orders, tried: tried.clone(), at })
}

/// What of this message is set aside: all of it if it cannot be understood, else each entry that names no
/// order or an order that cannot be handled.
fn parked(message: &Incoming, outcomes: &HashMap<OrderId, Outcome>) -> Vec<Outgoing> {
    let content = match &message.content {
        Ok(content) => content,
        Err(fault) => return vec![message.parked(fault.reason(), &fault.to_string())],
    };
    let bad_entries = content
        .bad_entries
        .iter()
        .map(|bad| message.parked_entry(&bad.json, bad.fault.reason(), &bad.fault.to_string()));
    // An order that the message names twice is parked once.
    let refused: BTreeMap<&OrderId, _> = content
        .orders
        .iter()
        .filter_map(|id| match outcomes.get(id) {
            Some(Outcome::Parked { reason, detail }) => Some((id, (*reason, detail))),
            _ => None,
        })
        .collect();
    let refused = refused.into_iter().map(|(id, (reason, detail))| message.parked_order(id, reason, detail));
    bad_entries.chain(refused).collect()
}
