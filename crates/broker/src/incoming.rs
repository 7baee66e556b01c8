use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use order::{Attempts, Deadline, Hop, ParkReason, Shard, TimeoutId, TimeoutKind};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use trace::TraceParent;

use crate::Outgoing;
use crate::forward::{carried_on, kept_headers, tells_of_death, without};
use crate::headers::{
    ATTEMPT_HEADER, ATTEMPTS_MADE_HEADER, DETAIL_HEADER, REASON_HEADER, UNTIL_HEADER, attempts, insert_attempts,
    insert_text, insert_time, time, with_headers,
};
use crate::routing::{is_lane_queue, kind_and_shard, routing_key};
use crate::topology::{LANES_EXCHANGE, PARKED_EXCHANGE};
use crate::wire::{self, Decoded, Fault};

/// A message as it arrived, read already.
pub struct Incoming {
    /// The orders, or timers, that it names, or why it cannot be understood.
    pub content: Result<Decoded, Fault>,
    /// What is due, and the shard that it travels in.
    route: (TimeoutKind, Shard),
    body: Vec<u8>,
    routing_key: String,
    properties: BasicProperties,
    /// Whether it has come by a way that only relays and workers may take.
    ours: bool,
    deliveries: u32,
    tag: DeliveryTag,
}

/// By what a session acks a message that it has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag(pub(crate) u64);

impl DeliveryTag {
    /// The tag of a message that no broker has delivered, for tests.
    #[must_use]
    pub fn of(tag: u64) -> Self {
        Self(tag)
    }
}

/// The most characters of a detail: all headers must fit into one frame.
const DETAIL_CHARACTERS_MAX: usize = 2_000;

impl Incoming {
    /// Reads a message that was delivered from `queue`, the due queue of this kind and shard.
    pub(crate) fn read(delivery: Delivery, queue: &str, route: (TimeoutKind, Shard)) -> Self {
        let key = delivery.routing_key.as_str().to_owned();
        let mut message = Self::arrived(key, delivery.data, delivery.properties, queue, route);
        message.ours = delivery.exchange.as_str() == LANES_EXCHANGE || came_by_a_lane_of_ours(&message.properties);
        message.deliveries = if delivery.redelivered { deliveries_before(&message.properties) } else { 0 };
        message.tag = DeliveryTag(delivery.delivery_tag);
        message
    }

    /// A message that no broker has delivered, for tests of code that handles messages.
    #[must_use]
    pub fn untouched_by_a_broker(routing_key: &str, body: &[u8]) -> Self {
        let route = (TimeoutKind::Payment, Shard::FIRST);
        Self::arrived(routing_key.to_owned(), body.to_vec(), BasicProperties::default(), "", route)
    }

    /// The same message, if only relays and workers can have sent it; for tests.
    #[must_use]
    pub fn of_ours(self, tag: DeliveryTag) -> Self {
        Self { ours: true, tag, ..self }
    }

    /// The same message, if it was to come out of its lane then; for tests.
    #[must_use]
    pub fn meant_for(mut self, instant: OffsetDateTime) -> Self {
        self.properties = with_headers(self.properties, |headers| insert_time(headers, UNTIL_HEADER, instant));
        self
    }

    fn arrived(
        routing_key: String,
        body: Vec<u8>,
        properties: BasicProperties,
        queue: &str,
        route_of_queue: (TimeoutKind, Shard),
    ) -> Self {
        // A message that was sent straight to the queue has the queue's name for its key.
        let route = if routing_key == queue { Ok(route_of_queue) } else { kind_and_shard(&routing_key) };
        let content = match &route {
            Ok((kind, _)) => wire::decode(*kind, &body),
            Err(unknown) => Err(Fault::UnknownKind(unknown.clone())),
        };
        let route = route.unwrap_or(route_of_queue);
        let tag = DeliveryTag(0);
        Self { content, route, body, routing_key, properties, ours: false, deliveries: 0, tag }
    }

    /// By what it is acked.
    #[must_use]
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// The lane by which it came, as its key tells; of what was sent straight to the due queue, its key.
    #[must_use]
    pub fn lane(&self) -> &str {
        self.routing_key.split_once('.').map_or(&self.routing_key, |(lane, _)| lane)
    }

    /// How many bytes its body has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// How often it was delivered before, and came back: its consumers died, or gave it back.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Its orders and when each is due, if it says so and is a message of ours: it has come by a way that only relays and
    /// workers may take. What a foreign publisher says counts for nothing.
    #[must_use]
    pub fn due(&self) -> Option<impl Iterator<Item = (&TimeoutId, Deadline)>> {
        let content = self.content.as_ref().ok().filter(|_| self.ours)?;
        let due = content.due.as_ref()?;
        Some(content.ids.iter().zip(due.iter().copied()))
    }

    /// How many orders it names; one for a message that cannot be understood.
    pub(crate) fn weight(&self) -> usize {
        self.content.as_ref().map_or(1, |decoded| decoded.ids.len().max(1))
    }

    /// The attempts at its orders so far, as its headers tell.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        self.properties.headers().as_ref().map_or_else(Attempts::default, |headers| attempts(headers, ATTEMPT_HEADER))
    }

    /// When it was to come out of its lane, as its headers tell.
    #[must_use]
    pub fn until(&self) -> Option<OffsetDateTime> {
        time(self.properties.headers().as_ref()?, UNTIL_HEADER)
    }

    /// Who sent it, as its `app_id` tells, if RabbitMQ 4 let it overtake others in its lane, as it does with a priority
    /// above 4 (<https://www.rabbitmq.com/docs/quorum-queues#priorities>).
    #[must_use]
    pub fn overtook(&self) -> Option<&str> {
        let has_overtaken = self.properties.priority().is_some_and(|priority| priority > 4);
        has_overtaken.then(|| self.properties.app_id().as_ref().map_or("", |app| app.as_str()))
    }

    /// What is due.
    #[must_use]
    pub fn kind(&self) -> TimeoutKind {
        self.route.0
    }

    /// The trace that it belongs to, if its headers tell.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        match self.properties.headers().as_ref()?.inner().get(trace::HEADER) {
            Some(AMQPValue::LongString(text)) => text.to_string().parse().ok(),
            _ => None,
        }
    }

    /// These of its orders as a message that goes round once more and waits where `hop` says: the message itself where
    /// it names no others, else one of its own.
    #[must_use]
    pub fn again(&self, ids: &[TimeoutId], hop: Hop, attempts: &Attempts) -> Outgoing {
        let body = if self.is_single() { self.body.clone() } else { wire::encode_ids(ids) };
        let mut headers = without(&kept_headers(self.properties.headers().as_ref()), tells_of_death);
        insert_attempts(&mut headers, ATTEMPT_HEADER, attempts);
        let (kind, shard) = self.route;
        self.in_its_place(LANES_EXCHANGE, routing_key(hop, kind, shard), body, headers).expiring(hop)
    }

    /// The whole message, byte for byte and with its headers, as one to be parked.
    #[must_use]
    pub fn parked(&self, reason: ParkReason, detail: &str) -> Outgoing {
        self.parked_as(self.body.clone(), reason, detail)
    }

    /// Bad entries of the message as one to be parked: their own bytes in a message of their own.
    #[must_use]
    pub fn parked_entries(&self, entries: &[&RawValue], reason: ParkReason, detail: &str) -> Outgoing {
        let body = if self.is_single() { self.body.clone() } else { wire::encode_entries(entries) };
        self.parked_as(body, reason, detail)
    }

    /// Orders of the message as one to be parked. They have a message of their own, so that to send it in again sends in
    /// these orders alone. A message that names one order is parked as it is.
    #[must_use]
    pub fn parked_ids(&self, ids: &[&TimeoutId], reason: ParkReason, detail: &str) -> Outgoing {
        let ids: Vec<TimeoutId> = ids.iter().map(|id| (*id).clone()).collect();
        let body = if self.is_single() { self.body.clone() } else { wire::encode_ids(&ids) };
        self.parked_as(body, reason, detail)
    }

    /// Whether it has one entry only.
    fn is_single(&self) -> bool {
        self.content.as_ref().is_ok_and(|decoded| decoded.ids.len() + decoded.bad_entries.len() == 1)
    }

    fn parked_as(&self, body: Vec<u8>, reason: ParkReason, detail: &str) -> Outgoing {
        let mut headers = kept_headers(self.properties.headers().as_ref());
        insert_text(&mut headers, REASON_HEADER, reason.code());
        let detail: String = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        insert_text(&mut headers, DETAIL_HEADER, &detail);
        // One that its publisher has written is none of ours.
        let mut headers = without(&headers, |name| name == ATTEMPTS_MADE_HEADER);
        insert_attempts(&mut headers, ATTEMPTS_MADE_HEADER, &self.attempts());
        self.in_its_place(PARKED_EXCHANGE, self.routing_key.clone(), body, headers)
    }

    fn in_its_place(
        &self,
        exchange: &'static str,
        routing_key: String,
        body: Vec<u8>,
        headers: FieldTable,
    ) -> Outgoing {
        Outgoing { exchange, routing_key, body, properties: carried_on(&self.properties, headers), mandatory: true }
    }
}

/// Whether the queue by which a message last left a lane is one of ours. The broker writes that down, the last first, and no
/// publisher can write before it (<https://www.rabbitmq.com/docs/dlx#effects>).
fn came_by_a_lane_of_ours(properties: &BasicProperties) -> bool {
    let deaths = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-death"));
    let Some(AMQPValue::FieldArray(deaths)) = deaths else { return false };
    let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first() else { return false };
    matches!(last.inner().get("queue"), Some(AMQPValue::LongString(queue)) if is_lane_queue(&queue.to_string()))
}

/// How often a quorum queue has delivered a message before, as its header tells
/// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
fn deliveries_before(properties: &BasicProperties) -> u32 {
    let count = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    match count {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongUInt(count)) => *count,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "overdue.v1.due.gateway.1";

    fn arrived(routing_key: &str) -> Incoming {
        let route = (TimeoutKind::Gateway, Shard::named("1"));
        let properties = BasicProperties::default();
        Incoming::arrived(routing_key.to_owned(), b"842317".to_vec(), properties, QUEUE, route)
    }

    #[test]
    fn a_message_goes_round_as_the_kind_that_it_is() {
        let hop = Hop::Lane { lane: "5s".parse().unwrap(), wait_ms: 4_000 };
        for (arrived_with, goes_on_with) in
            [("30m.gateway.1", "5s.gateway.1"), ("30m.payment", "5s.payment"), (QUEUE, "5s.gateway.1")]
        {
            let message = arrived(arrived_with);
            let ids = &message.content.as_ref().unwrap().ids;
            assert_eq!(message.again(ids, hop, &Attempts::default()).routing_key(), goes_on_with);
        }
    }

    #[test]
    fn a_message_of_an_unknown_kind_is_not_read() {
        for key in ["30m.receipt", "5s.PAYMENT", "842317"] {
            let Err(fault) = &arrived(key).content else { panic!("{key} was read") };
            assert_eq!(fault.reason(), ParkReason::UnknownKind, "{key}");
        }
    }

    #[test]
    fn whoever_lets_messages_overtake_is_named() {
        let overtook = |priority| {
            let mut message = arrived("30m.payment");
            message.properties = BasicProperties::default().with_priority(priority).with_app_id("shop-7".into());
            message.overtook().map(str::to_owned)
        };
        assert_eq!((overtook(4), overtook(5)), (None, Some("shop-7".to_owned())));
        assert_eq!(arrived("30m.payment").overtook(), None);
    }
}
