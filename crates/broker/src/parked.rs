//! Messages that were set aside, on their way out of the parked queue.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use order::{Attempts, ParkReason, Shard, TimeoutId, TimeoutKind, UnknownKind};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::connection::close;
use crate::forward::{kept_headers, tells_of_death, without};
use crate::headers::{ATTEMPTS_MADE_HEADER, DETAIL_HEADER, REASON_HEADER, attempts, text};
use crate::json::{of_properties, of_table, storable, to_table};
use crate::routing::{is_due_queue, kind_and_shard, routing_key};
use crate::session::consumer_tag;
use crate::topology::{LANES_EXCHANGE, PARKED_EXCHANGE, PARKED_QUEUE, UNREADABLE_EXCHANGE};
use crate::{Broker, BrokerError, Outgoing, wire};

/// A consumer of the parked queue. What it has taken and not acked goes back when it is closed, or when the program dies.
pub struct ParkedQueue {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

/// A message that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedMessage {
    /// The code of the reason: one of [`ParkReason`], or the broker's own word for why it dead-lettered the message.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// Since when, as far as it is known.
    pub parked_at: Option<OffsetDateTime>,
    /// The orders, or timers, that it names, as far as it can be understood.
    pub ids: Vec<TimeoutId>,
    /// The attempts at its orders before it was parked.
    pub attempts: Attempts,
    /// The key that it came with.
    pub routing_key: String,
    /// All properties but the headers, by their names in AMQP.
    pub properties: Map<String, Value>,
    /// Its headers.
    pub headers: Map<String, Value>,
    /// Its bytes.
    pub body: Vec<u8>,
    delivery_tag: u64,
}

/// The lane by which a message that is sent in again gets to its due queue.
const AGAIN_LANE: &str = "1s";

/// How many messages the broker sends ahead. They may be large.
const PREFETCH: u16 = 64;

/// How many bytes are taken together.
const BYTES_MAX: usize = 4 * 1024 * 1024;

impl ParkedQueue {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let connection = broker.connect("parked").await?;
        let channel = broker.channel(&connection).await?;
        let error = |error: lapin::Error| broker.error(&error);
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(error)?;
        let (options, nothing) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel
            .basic_consume(PARKED_QUEUE.into(), consumer_tag().as_str().into(), options, nothing)
            .await
            .map_err(error)?;
        Ok(Self { broker: broker.clone(), connection, channel, consumer })
    }

    /// Waits for a message and takes with it the others that have arrived. `None` when the subscription has ended.
    ///
    /// May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<Vec<ParkedMessage>> {
        let mut messages = vec![ParkedMessage::read(self.consumer.next().await?.ok()?)];
        let mut bytes = messages[0].body.len();
        while bytes < BYTES_MAX
            && let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never()
        {
            bytes += delivery.data.len();
            messages.push(ParkedMessage::read(delivery));
        }
        Some(messages)
    }

    /// As [`ParkedQueue::receive`], but empty when none has come for a while.
    pub async fn receive_within(&mut self, wait: Duration) -> Option<Vec<ParkedMessage>> {
        timeout(wait, self.receive()).await.unwrap_or_else(|_| Some(Vec::new()))
    }

    /// Takes these messages, and all before them, out of the queue for good.
    ///
    /// # Errors
    /// [`BrokerError`]: they come again then.
    pub async fn ack(&self, messages: &[ParkedMessage]) -> Result<(), BrokerError> {
        let Some(last) = messages.last() else { return Ok(()) };
        let acked = self.channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await;
        acked.map_err(|error| self.broker.error(&error))
    }

    /// Gives everything back that was not acked, and hangs up.
    pub async fn close(self) {
        // Politely, so that the acks before it have arrived.
        let _ = timeout(Duration::from_secs(2), self.channel.close(200, "OK".into())).await;
        close(&self.connection).await;
    }
}

impl ParkedMessage {
    fn read(delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let death = first_death(&headers);
        let died_when_due =
            death.as_ref().and_then(|death| text(death, "queue")).is_some_and(|queue| is_due_queue(&queue));
        // What a worker has parked came by the parked queue's exchange, and has not died on its way. In every other message the
        // headers are its publisher's, and say what that likes.
        let ours = delivery.exchange.as_str() == PARKED_EXCHANGE && !died_when_due;
        let routing_key = storable(delivery.routing_key.as_str());
        let died_of = death.as_ref().and_then(|death| text(death, "reason"));
        let reason = text(&headers, REASON_HEADER).filter(|_| ours);
        let time = match death.as_ref().and_then(|death| death.inner().get("time")) {
            Some(AMQPValue::Timestamp(seconds)) if !ours => Some(*seconds),
            _ => *delivery.properties.timestamp(),
        };
        let kind = kind_and_shard(&routing_key).map_or(TimeoutKind::Payment, |(kind, _)| kind);
        let mut attempts = if ours { attempts(&headers, ATTEMPTS_MADE_HEADER) } else { Attempts::default() };
        attempts.history = attempts.history.iter().map(|line| storable(line)).collect();
        Self {
            reason: storable(&reason.unwrap_or_else(|| reason_of_the_broker(died_of, &routing_key))),
            detail: text(&headers, DETAIL_HEADER).filter(|_| ours).map(|detail| storable(&detail)),
            parked_at: time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.cast_signed()).ok()),
            ids: wire::decode(kind, &delivery.data).map(|decoded| decoded.ids).unwrap_or_default(),
            attempts,
            routing_key,
            properties: of_properties(&delivery.properties),
            headers: of_table(&headers),
            body: delivery.data,
            delivery_tag: delivery.delivery_tag,
        }
    }

    /// The message for the queue of those that cannot even be stored.
    #[must_use]
    pub fn unreadable(&self) -> Outgoing {
        let properties = BasicProperties::default().with_headers(kept_headers(Some(&to_table(&self.headers))));
        Outgoing {
            exchange: UNREADABLE_EXCHANGE,
            routing_key: self.routing_key.clone(),
            body: self.body.clone(),
            properties,
            mandatory: true,
        }
    }
}

impl Outgoing {
    /// A message that was parked, as one that is sent in anew: byte for byte, of the same kind, with no attempts behind it.
    ///
    /// # Errors
    /// [`UnknownKind`] where this version does not know its kind: no other kind would be right.
    pub fn sent_in_again(
        key: &str,
        body: Vec<u8>,
        properties: &Map<String, Value>,
        headers: &Map<String, Value>,
    ) -> Result<Self, UnknownKind> {
        let (kind, _) = kind_and_shard(key)?;
        let headers = kept_headers(Some(&to_table(headers)));
        let ours = [REASON_HEADER, DETAIL_HEADER, ATTEMPTS_MADE_HEADER];
        let headers =
            without(&headers, |name| tells_of_death(name) || name == "x-delivery-count" || ours.contains(&name));
        let text = |name: &str| properties.get(name).and_then(Value::as_str);
        let mut sent = BasicProperties::default().with_headers(headers);
        if let Some(value) = text("content-type") {
            sent = sent.with_content_type(value.into());
        }
        if let Some(value) = text("content-encoding") {
            sent = sent.with_content_encoding(value.into());
        }
        if let Some(value) = text("correlation-id") {
            sent = sent.with_correlation_id(value.into());
        }
        if let Some(value) = text("type") {
            sent = sent.with_type(value.into());
        }
        // Of the first shard, which there always is.
        let routing_key = routing_key(AGAIN_LANE, kind, Shard::FIRST);
        Ok(Self { exchange: LANES_EXCHANGE, routing_key, body, properties: sent, mandatory: true })
    }
}

/// Why the broker itself has set a message aside. One that has left its lane (`expired`) found no due queue.
fn reason_of_the_broker(died_of: Option<String>, routing_key: &str) -> String {
    match died_of.as_deref() {
        None | Some("expired") if kind_and_shard(routing_key).is_err() => ParkReason::UnknownKind.code().to_owned(),
        None | Some("expired") => ParkReason::Unroutable.code().to_owned(),
        Some(reason) => reason.to_owned(),
    }
}

/// What the broker says of the last time that it dead-lettered the message.
fn first_death(headers: &FieldTable) -> Option<FieldTable> {
    match headers.inner().get("x-death") {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => Some(death.clone()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_has_set_aside_has_a_reason_too() {
        for (died_of, key, reason) in [
            (None, "31m.payment", "unroutable"),
            (None, "30m.receipt", "unknown_kind"),
            (Some("expired"), "30m.receipt", "unknown_kind"),
            (Some("expired"), "30m.payment", "unroutable"),
            (Some("delivery_limit"), "30m.payment", "delivery_limit"),
            (Some("maxlen"), "30m.payment", "maxlen"),
        ] {
            assert_eq!(reason_of_the_broker(died_of.map(str::to_owned), key), reason, "{died_of:?} {key}");
        }
    }
}
