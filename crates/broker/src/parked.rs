use std::hash::{DefaultHasher, Hash, Hasher};

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use order::{Attempts, OrderId, ParkReason, Shard, UnknownKind};
use time::OffsetDateTime;

use crate::connection::close;
use crate::forward::{carried_on, kept_headers, tells_of_death, without};
use crate::headers::{ATTEMPTS_MADE_HEADER, DETAIL_HEADER, REASON_HEADER, attempts, text};
use crate::routing::{kind_and_shard, routing_key};
use crate::topology::{LANES_EXCHANGE, PARKED_QUEUE};
use crate::{Broker, BrokerError, Outgoing, wire};

/// The parked queue, gone through by a person. Messages that were taken out and not acked go back when it is closed, or
/// when the program dies.
pub struct ParkedQueue {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    /// How many messages are still to be looked at, of those that were there at the beginning.
    left: Option<u32>,
}

/// A message that was set aside.
pub struct ParkedMessage {
    /// Its message ID. A message without one gets a number made from its content.
    pub id: String,
    /// The code of the reason: one of [`ParkReason`], or the broker's own word for why it dead-lettered the message.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// Since when, as far as it is known.
    pub parked_at: Option<OffsetDateTime>,
    /// The orders that it names, as far as it can be understood.
    pub orders: Vec<OrderId>,
    /// The attempts at its orders before it was parked.
    pub attempts: Attempts,
    /// The key that it came with.
    pub routing_key: String,
    /// Its bytes.
    pub body: Vec<u8>,
    properties: BasicProperties,
    delivery_tag: u64,
}

/// The lane by which a message that is sent in again gets to its due queue.
const AGAIN_LANE: &str = "1s";

impl ParkedQueue {
    /// Connects.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let connection = broker.connect("parked").await?;
        let channel = broker.channel(&connection).await?;
        Ok(Self { broker: broker.clone(), connection, channel, left: None })
    }

    /// The next message; `None` after the last that was there at the beginning. What was sent in again may have come
    /// back meanwhile.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn next(&mut self) -> Result<Option<ParkedMessage>, BrokerError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let got = self.channel.basic_get(PARKED_QUEUE.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| self.broker.error(&error))? else { return Ok(None) };
        self.left = Some(self.left.map_or(got.message_count, |left| left - 1));
        Ok(Some(ParkedMessage::read(got)))
    }

    /// Takes a message out for good.
    ///
    /// # Errors
    /// [`BrokerError`]: it is still there then.
    pub async fn ack(&self, message: &ParkedMessage) -> Result<(), BrokerError> {
        let acked = self.channel.basic_ack(message.delivery_tag, BasicAckOptions::default()).await;
        acked.map_err(|error| self.broker.error(&error))
    }

    /// Gives everything back that was not acked, and hangs up.
    pub async fn close(self) {
        // Politely, so that the acks before it have arrived.
        let _ = self.channel.close(200, "OK".into()).await;
        close(&self.connection).await;
    }
}

impl ParkedMessage {
    fn read(got: BasicGetMessage) -> Self {
        let delivery = got.delivery;
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let death = first_death(&headers);
        let ours = text(&headers, REASON_HEADER);
        let time = match death.as_ref().and_then(|death| death.inner().get("time")) {
            Some(AMQPValue::Timestamp(seconds)) if ours.is_none() => Some(*seconds),
            _ => *delivery.properties.timestamp(),
        };
        let routing_key = delivery.routing_key.as_str().to_owned();
        let died_of = death.as_ref().and_then(|death| text(death, "reason"));
        let reason = ours.unwrap_or_else(|| reason_of_the_broker(died_of, &routing_key));
        let id = match delivery.properties.message_id() {
            Some(id) => id.as_str().to_owned(),
            None => {
                let mut hasher = DefaultHasher::new();
                (&delivery.data, &routing_key, time).hash(&mut hasher);
                format!("x{:016x}", hasher.finish())
            }
        };
        Self {
            id,
            reason,
            detail: text(&headers, DETAIL_HEADER),
            parked_at: time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.cast_signed()).ok()),
            orders: wire::decode(&delivery.data).map(|decoded| decoded.orders).unwrap_or_default(),
            attempts: attempts(&headers, ATTEMPTS_MADE_HEADER),
            routing_key,
            properties: delivery.properties,
            body: delivery.data,
            delivery_tag: delivery.delivery_tag,
        }
    }

    /// Its headers, each in a line.
    #[must_use]
    pub fn headers(&self) -> Vec<String> {
        let headers = self.properties.headers().as_ref().map(FieldTable::inner);
        let line = |(name, value): (&lapin::types::ShortString, &AMQPValue)| match value {
            AMQPValue::LongString(text) => format!("{name}: {text}"),
            AMQPValue::LongUInt(number) => format!("{name}: {number}"),
            AMQPValue::LongInt(number) => format!("{name}: {number}"),
            AMQPValue::LongLongInt(number) => format!("{name}: {number}"),
            AMQPValue::Boolean(value) => format!("{name}: {value}"),
            other => format!("{name}: {other:?}"),
        };
        headers.into_iter().flatten().map(line).collect()
    }

    /// The same message as one that is sent in anew: byte for byte, of the same kind, with no attempts behind it.
    ///
    /// # Errors
    /// [`UnknownKind`] where this version does not know its kind: no other kind would be right.
    pub fn sent_in_again(&self) -> Result<Outgoing, UnknownKind> {
        let (kind, _) = kind_and_shard(&self.routing_key)?;
        let headers = kept_headers(self.properties.headers().as_ref());
        let ours = [REASON_HEADER, DETAIL_HEADER, ATTEMPTS_MADE_HEADER];
        let headers = without(&headers, |name| tells_of_death(name) || ours.contains(&name));
        let properties = carried_on(&self.properties, headers);
        // Of the first shard, which there always is.
        let routing_key = routing_key(AGAIN_LANE, kind, Shard::FIRST);
        Ok(Outgoing { exchange: LANES_EXCHANGE, routing_key, body: self.body.clone(), properties, mandatory: true })
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
