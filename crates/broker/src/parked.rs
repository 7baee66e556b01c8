use std::hash::{DefaultHasher, Hash, Hasher};

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use order::{OrderId, Shard};
use time::OffsetDateTime;

use crate::connection::close;
use crate::consume::{
    ATTEMPTS_MADE_HEADER, DETAIL_HEADER, REASON_HEADER, carried_on, kept_headers, tells_of_death, without,
};
use crate::outgoing::HISTORY_HEADER;
use crate::topology::{LANES_EXCHANGE, PARKED_QUEUE, kind_and_shard, routing_key};
use crate::{Broker, BrokerError, Outgoing, wire};

/// The parked queue, gone through by a person. What is taken out and not acked goes back when it is closed, or when
/// the program dies.
pub struct ParkedQueue {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    /// How many messages there are still to be looked at: those that were there at the beginning.
    left: Option<u32>,
}

/// A message that was set aside.
pub struct ParkedMessage {
    /// Tells it from others: its message ID; where it has none, a number made from what it says.
    pub id: String,
    /// Why, as a short, stable name. Without one of ours the broker has set it aside: `unroutable`, or the reason of its
    /// dead-lettering, such as `delivery_limit`.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// Since when, as far as it is known.
    pub parked_at: Option<OffsetDateTime>,
    /// The orders that it names, as far as it can be understood.
    pub orders: Vec<OrderId>,
    /// How often its orders were looked at in vain.
    pub attempts: u32,
    /// What came of the last of these attempts, oldest first.
    pub history: Vec<String>,
    /// The key that it came with.
    pub routing_key: String,
    /// Its bytes.
    pub body: Vec<u8>,
    properties: BasicProperties,
    delivery_tag: u64,
}

/// In how many hops a message that is sent in again gets to its due queue: one, of a second.
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

    /// The next message; `None`: that was the last that was there at the beginning. What was sent in again may have come
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
        let text = |table: &FieldTable, name: &str| match table.inner().get(name) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()),
            _ => None,
        };
        let died = death.as_ref().and_then(|death| text(death, "reason"));
        let ours = text(&headers, REASON_HEADER);
        let time = match death.as_ref().and_then(|death| death.inner().get("time")) {
            Some(AMQPValue::Timestamp(seconds)) if ours.is_none() => Some(*seconds),
            _ => *delivery.properties.timestamp(),
        };
        let routing_key = delivery.routing_key.as_str().to_owned();
        let attempts = match headers.inner().get(ATTEMPTS_MADE_HEADER) {
            Some(AMQPValue::LongUInt(number)) => *number,
            _ => 0,
        };
        let history = match headers.inner().get(HISTORY_HEADER) {
            Some(AMQPValue::FieldArray(lines)) => lines.as_slice().iter(),
            _ => [].iter(),
        };
        let history = history.filter_map(|line| match line {
            AMQPValue::LongString(line) => Some(line.to_string()),
            _ => None,
        });
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
            reason: ours.or(died).unwrap_or_else(|| "unroutable".to_owned()),
            detail: text(&headers, DETAIL_HEADER),
            parked_at: time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.cast_signed()).ok()),
            orders: wire::decode(&delivery.data).map(|decoded| decoded.orders).unwrap_or_default(),
            attempts,
            history: history.collect(),
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

    /// The same message as one that is sent in anew: byte for byte, with no attempts made.
    #[must_use]
    pub fn sent_in_again(&self) -> Outgoing {
        let headers = kept_headers(self.properties.headers().as_ref());
        let ours = [REASON_HEADER, DETAIL_HEADER, ATTEMPTS_MADE_HEADER];
        let headers = without(&headers, |name| tells_of_death(name) || ours.contains(&name));
        let properties = carried_on(&self.properties, headers);
        // Of the first shard, which there always is.
        let routing_key = routing_key(AGAIN_LANE, kind_and_shard(&self.routing_key).0, Shard::FIRST);
        Outgoing { exchange: LANES_EXCHANGE, routing_key, body: self.body.clone(), properties, mandatory: true }
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
