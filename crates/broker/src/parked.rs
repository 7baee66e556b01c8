//! Messages that were set aside, on their way out of the parked queue.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use order::{Attempts, ParkReason, Shard, TimeoutId, TimeoutKind, UnknownKind};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::forward::{kept_headers, tells_of_death, without};
use crate::headers::{ATTEMPTS_MADE_HEADER, DETAIL_HEADER, REASON_HEADER, attempts, text};
use crate::json::{of_properties, of_table, storable, to_table};
use crate::routing::{endpoint_of_key, endpoint_of_queue, is_due_queue, kind_and_shard, routing_key, webhook_key};
use crate::subscription::Subscription;
use crate::topology::{
    COMMANDS_EXCHANGE, COMMANDS_QUEUE, LANES_EXCHANGE, PARKED_EXCHANGE, PARKED_QUEUE, UNREADABLE_EXCHANGE,
};
use crate::{Broker, BrokerError, Outgoing, wire};

/// A consumer of the parked queue. What it has taken and not acked goes back when it is closed, or when the program dies.
pub struct ParkedQueue(Subscription);

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
        Ok(Self(Subscription::open(broker, "parked", PARKED_QUEUE, PREFETCH).await?))
    }

    /// Waits for a message and takes with it the others that have arrived. `None` when the subscription has ended.
    ///
    /// May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<Vec<ParkedMessage>> {
        Some(self.0.receive(BYTES_MAX).await?.into_iter().map(ParkedMessage::read).collect())
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
        match messages.last() {
            Some(last) => self.0.ack_up_to(last.delivery_tag).await,
            None => Ok(()),
        }
    }

    /// Gives everything back that was not acked, and hangs up.
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl ParkedMessage {
    fn read(delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let death = first_death(&headers);
        let died_in = death.as_ref().and_then(|death| text(death, "queue")).unwrap_or_default();
        let endpoint = endpoint_of_queue(&died_in);
        let died_when_due = is_due_queue(&died_in) || died_in == COMMANDS_QUEUE || endpoint.is_some();
        // What a worker has parked came by the parked queue's exchange, and has not died on its way. In every other message the
        // headers are its publisher's, and say what that likes.
        let ours = delivery.exchange.as_str() == PARKED_EXCHANGE && !died_when_due;
        // By its key a message finds its way back. A command's is its sender's, and an event's its type.
        let routing_key = match endpoint {
            Some(endpoint) => webhook_key(AGAIN_LANE, endpoint),
            // The second: no queue was bound.
            None if died_in == COMMANDS_QUEUE || delivery.exchange.as_str() == COMMANDS_EXCHANGE => {
                COMMANDS_QUEUE.to_owned()
            }
            None => storable(delivery.routing_key.as_str()),
        };
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
        let (exchange, routing_key) = if key == COMMANDS_QUEUE {
            (COMMANDS_EXCHANGE, key.to_owned())
        } else if let Some(endpoint) = endpoint_of_key(key) {
            (LANES_EXCHANGE, webhook_key(AGAIN_LANE, endpoint))
        } else {
            // Of the first shard, which there always is.
            (LANES_EXCHANGE, routing_key(AGAIN_LANE, kind_and_shard(key)?.0, Shard::FIRST))
        };
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
        Ok(Self { exchange, routing_key, body, properties: sent, mandatory: true })
    }
}

/// Why the broker itself has set a message aside. One that has left its lane (`expired`) found no due queue.
fn reason_of_the_broker(died_of: Option<String>, routing_key: &str) -> String {
    match died_of.as_deref() {
        None | Some("expired") if endpoint_of_key(routing_key).is_some() || routing_key == COMMANDS_QUEUE => {
            ParkReason::Unroutable.code().to_owned()
        }
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
