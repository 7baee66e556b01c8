use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use order::{Deadline, Hop, OrderId, Shard};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use trace::TraceParent;

use crate::topology::{EVENTS_EXCHANGE, GATEWAY_KIND, LANES_EXCHANGE, NOW, PAYMENT_KIND, routing_key};
use crate::wire;

/// A message that is to be published: persistent always, and mandatory but for events.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(crate) exchange: &'static str,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    /// Whether it counts as published only if a queue has taken it.
    pub(crate) mandatory: bool,
}

/// Something that has happened to an order.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The same each time it is sent.
    pub id: &'a str,
    /// Which deployment tells it: a URI reference.
    pub source: &'a str,
    /// `order.closed`, `order.paid`, `payment.late` or `payment.refunded`.
    pub kind: &'a str,
    /// The order.
    pub order: &'a OrderId,
    /// When it happened.
    pub time: Deadline,
    /// What there is to know of it, as JSON.
    pub data: &'a RawValue,
    /// Which trace it belongs to: an extension of CloudEvents
    /// (<https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md>).
    pub traceparent: Option<&'a TraceParent>,
}

/// Delivery mode 2: the message survives a restart of the broker. It carries over when the message is
/// dead-lettered.
pub(crate) const PERSISTENT: u8 = 2;

/// How often an order was looked at in vain. Our own header: RabbitMQ 4 ignores a client's `x-death`, and a message
/// that is published anew starts without one.
pub(crate) const ATTEMPT_HEADER: &str = "x-overdue-attempt";

/// What came of the last attempts: a list of texts.
pub(crate) const HISTORY_HEADER: &str = "x-overdue-history";

/// How often an order was looked at in vain, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tried {
    /// Attempts that came to nothing.
    pub attempts: u32,
    /// The last of them, oldest first: `2026-11-22T08:30:00Z timeout`.
    pub history: Vec<String>,
}

impl Tried {
    /// How many attempts are remembered.
    const HISTORY_MAX: usize = 16;
    /// How many characters are remembered of what came of one.
    const WHY_CHARACTERS_MAX: usize = 200;

    /// One attempt more, at this time, in vain for this reason.
    #[must_use]
    pub fn once_more(mut self, at: OffsetDateTime, why: &str) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        // To the second, so that orders that fail together still share a message.
        let at = Deadline::at(at.replace_nanosecond(0).unwrap_or(at));
        let why: String = why.chars().take(Self::WHY_CHARACTERS_MAX).collect();
        self.history.push(format!("{at} {why}"));
        self.history.drain(..self.history.len().saturating_sub(Self::HISTORY_MAX));
        self
    }

    pub(crate) fn insert_into(&self, headers: &mut FieldTable) {
        if self.attempts > 0 {
            headers.insert(ATTEMPT_HEADER.into(), AMQPValue::LongUInt(self.attempts));
            let history: Vec<AMQPValue> =
                self.history.iter().map(|line| AMQPValue::LongString(line.as_str().into())).collect();
            headers.insert(HISTORY_HEADER.into(), AMQPValue::FieldArray(history.into()));
        }
    }

    /// What headers say; nothing without them, or with nonsense in them.
    pub(crate) fn read(headers: Option<&FieldTable>) -> Self {
        let Some(headers) = headers else { return Self::default() };
        let attempts = match headers.inner().get(ATTEMPT_HEADER) {
            Some(AMQPValue::LongUInt(number)) => Some(*number),
            Some(AMQPValue::LongInt(number)) => u32::try_from(*number).ok(),
            Some(AMQPValue::LongLongInt(number)) => u32::try_from(*number).ok(),
            _ => None,
        };
        let history = match headers.inner().get(HISTORY_HEADER) {
            Some(AMQPValue::FieldArray(lines)) => lines.as_slice(),
            _ => &[],
        };
        let lines = history.iter().filter_map(|line| match line {
            AMQPValue::LongString(line) => Some(line.to_string().chars().take(300).collect()),
            _ => None,
        });
        let history = lines.take(Self::HISTORY_MAX).collect();
        Self { attempts: attempts.unwrap_or(0), history }
    }
}

impl Outgoing {
    /// A payment timeout for these orders (1 to [`wire::ORDERS_MAX`]) of one shard, to wait where `hop` says.
    #[must_use]
    pub fn payment_timeout(orders: &[(OrderId, Deadline)], hop: Hop, shard: Shard) -> Self {
        Self::json(orders, routing_key(hop.lane, PAYMENT_KIND, shard)).expiring(hop)
    }

    /// The same for one order and no more than its ID, the form that foreign publishers use.
    #[must_use]
    pub fn bare_payment_timeout(order: &OrderId, hop: Hop, shard: Shard) -> Self {
        let key = routing_key(hop.lane, PAYMENT_KIND, shard);
        Self::new(key, order.as_str().as_bytes().to_vec(), "text/plain").expiring(hop)
    }

    /// Orders (1 to [`wire::ORDERS_MAX`]) of one shard whose gateways are to be asked at once.
    #[must_use]
    pub fn gateway_check(orders: &[(OrderId, Deadline)], shard: Shard) -> Self {
        Self::json(orders, routing_key(NOW, GATEWAY_KIND, shard))
    }

    /// Orders (1 to [`wire::ORDERS_MAX`]) of one shard whose gateways are to be asked again, after so many attempts in vain.
    #[must_use]
    pub fn later_gateway_check(orders: &[(OrderId, Deadline)], hop: Hop, shard: Shard, tried: &Tried) -> Self {
        let mut message = Self::json(orders, routing_key(hop.lane, GATEWAY_KIND, shard)).expiring(hop);
        let mut headers = FieldTable::default();
        tried.insert_into(&mut headers);
        message.properties = message.properties.with_headers(headers);
        message
    }

    /// An event, in the structured JSON form of CloudEvents 1.0
    /// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md>). Its type is the
    /// routing key. Nobody needs to listen.
    #[must_use]
    pub fn event(event: &Event<'_>) -> Self {
        #[derive(Serialize)]
        struct CloudEvent<'a> {
            specversion: &'static str,
            id: &'a str,
            source: &'a str,
            #[serde(rename = "type")]
            kind: &'a str,
            subject: &'a str,
            time: String,
            datacontenttype: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            traceparent: Option<&'a str>,
            data: &'a RawValue,
        }
        let body = CloudEvent {
            specversion: "1.0",
            id: event.id,
            source: event.source,
            kind: event.kind,
            subject: event.order.as_str(),
            time: event.time.to_string(),
            datacontenttype: "application/json",
            traceparent: event.traceparent.map(TraceParent::as_str),
            data: event.data,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let properties = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        Self { exchange: EVENTS_EXCHANGE, routing_key: event.kind.to_owned(), body, properties, mandatory: false }
            .traced(event.traceparent)
    }

    /// The same message as part of a trace.
    #[must_use]
    pub fn traced(mut self, traceparent: Option<&TraceParent>) -> Self {
        if let Some(traceparent) = traceparent {
            let mut headers = self.properties.headers().clone().unwrap_or_default();
            insert_text(&mut headers, trace::HEADER, traceparent.as_str());
            self.properties = self.properties.with_headers(headers);
        }
        self
    }

    fn json(orders: &[(OrderId, Deadline)], routing_key: String) -> Self {
        Self::new(routing_key, wire::encode(orders), "application/json")
    }

    fn new(routing_key: String, body: Vec<u8>, content_type: &'static str) -> Self {
        let properties = BasicProperties::default().with_content_type(content_type.into());
        Self { exchange: LANES_EXCHANGE, routing_key, body, properties, mandatory: true }
    }

    pub(crate) fn expiring(mut self, hop: Hop) -> Self {
        if let Some(ms) = hop.expiration_ms {
            self.properties = self.properties.with_expiration(ms.to_string().into());
        }
        self
    }
}

/// Puts a text header into the table, replacing one of that name.
pub(crate) fn insert_text(headers: &mut FieldTable, name: &'static str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(text.into()));
}
