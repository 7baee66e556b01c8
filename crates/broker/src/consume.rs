use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};

use tokio::time::timeout;

use crate::connection::close;
use crate::outgoing::{ATTEMPT_HEADER, insert_text};
use crate::topology::PARKED_EXCHANGE;
use crate::wire::{self, Decoded, Fault};
use crate::{Broker, BrokerError, Outgoing};

/// One life of a consumer: a connection, a channel and a subscription of its own. When any of them ends, the
/// whole session ends and its owner opens another; what was not acked comes back from the broker then.
pub struct Session {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    /// The consumer's stream tells its end only once, perhaps while messages are in hand.
    ended: bool,
}

/// Messages that arrived together. They can be acked only on the channel that brought them: a batch of an
/// ended session cannot ack anything of the next.
pub struct Batch {
    messages: Vec<Incoming>,
    channel: Channel,
    broker: Broker,
}

/// A message as it arrived, read already.
pub struct Incoming {
    /// What it says, or why it cannot be understood.
    pub content: Result<Decoded, Fault>,
    body: Vec<u8>,
    routing_key: String,
    properties: BasicProperties,
    delivery_tag: u64,
}

/// How long handing an ack to the connection may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects and subscribes to `queue`. `prefetch` is the only bound on what the broker sends ahead.
    ///
    /// # Errors
    /// [`BrokerError`]; the queue is not declared, only consumed.
    pub async fn open(broker: &Broker, queue: &str, prefetch: u16) -> Result<Self, BrokerError> {
        let connection = broker.connect("consumer").await?;
        let channel = broker.channel(&connection).await?;
        let error = |error: lapin::Error| broker.error(&error);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(error)?;
        let consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(error)?;
        Ok(Self { broker: broker.clone(), connection, channel, consumer, ended: false })
    }

    /// Waits for a message and takes with it whatever else has arrived already, until the messages name
    /// `orders_max` orders or more. `None` when the session has ended: the queue was deleted, or the
    /// connection is gone.
    ///
    /// May be dropped while it waits; no message is lost by that.
    pub async fn receive(&mut self, orders_max: usize) -> Option<Batch> {
        let mut messages = vec![Incoming::read(self.next().await?)];
        let mut orders = messages[0].weight();
        while orders < orders_max {
            let Some(Some(delivery)) = self.next().now_or_never() else { break };
            let message = Incoming::read(delivery);
            orders += message.weight();
            messages.push(message);
        }
        Some(Batch { messages, channel: self.channel.clone(), broker: self.broker.clone() })
    }

    /// Tells the broker to send nothing more, and hangs up. What was sent ahead and not taken goes back to
    /// the queue.
    pub async fn close(self) {
        let politely = async {
            let _ = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default()).await;
            let _ = self.channel.close(200, "OK".into()).await;
        };
        // The connection may be dead without anybody having said so.
        let _ = timeout(Duration::from_secs(2), politely).await;
        close(&self.connection).await;
    }

    async fn next(&mut self) -> Option<Delivery> {
        if self.ended {
            return None;
        }
        // An error is always followed by the end of the stream: both mean that the session is over.
        let delivery = self.consumer.next().await.and_then(Result::ok);
        self.ended = delivery.is_none();
        delivery
    }
}

impl Batch {
    /// The messages, in the order of their arrival; at least one.
    #[must_use]
    pub fn messages(&self) -> &[Incoming] {
        &self.messages
    }

    /// Acks all of them at once. Only for when whatever they led to is committed and confirmed.
    ///
    /// # Errors
    /// [`BrokerError`] if the session has ended meanwhile: then they will come again.
    pub async fn ack(self) -> Result<(), BrokerError> {
        let Some(last) = self.messages.last() else { return Ok(()) };
        // A session takes messages in the order of their tags and has one batch at a time, so everything up
        // to this tag is in this batch or was acked before.
        let ack = self.channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true });
        // On a channel that the broker closes at this moment, lapin may never answer.
        match timeout(ACK_TIMEOUT, ack).await {
            Ok(acked) => acked.map_err(|error| self.broker.error(&error)),
            Err(_) => Err(BrokerError::Timeout {
                address: self.broker.address().to_owned(),
                timeout_ms: ACK_TIMEOUT.as_millis(),
            }),
        }
    }
}

impl Incoming {
    fn read(delivery: Delivery) -> Self {
        Self {
            content: wire::decode(&delivery.data),
            body: delivery.data,
            routing_key: delivery.routing_key.as_str().to_owned(),
            properties: delivery.properties,
            delivery_tag: delivery.delivery_tag,
        }
    }

    fn weight(&self) -> usize {
        self.content.as_ref().map_or(1, |decoded| decoded.orders.len().max(1))
    }

    /// How often its orders were looked at in vain, as its header says; 0 without one, or with nonsense in it.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        let value = self.properties.headers().as_ref().and_then(|headers| headers.inner().get(ATTEMPT_HEADER));
        let number = match value {
            Some(AMQPValue::LongUInt(number)) => Some(*number),
            Some(AMQPValue::LongInt(number)) => u32::try_from(*number).ok(),
            Some(AMQPValue::LongLongInt(number)) => u32::try_from(*number).ok(),
            _ => None,
        };
        number.unwrap_or(0)
    }

    /// The whole message, byte for byte and with its headers, as one to be parked.
    #[must_use]
    pub fn parked(&self, reason: &str, detail: &str) -> Outgoing {
        self.parked_as(self.body.clone(), reason, detail)
    }

    /// One entry of the message as one to be parked: its own bytes in an envelope of its own, so that
    /// whoever sends it in again sends in this order alone. A message that names one order is parked as it is.
    #[must_use]
    pub fn parked_entry(&self, entry_json: &str, reason: &str, detail: &str) -> Outgoing {
        let alone = self.content.as_ref().is_ok_and(|decoded| decoded.orders.len() + decoded.bad_entries.len() == 1);
        let body = if alone { self.body.clone() } else { wire::envelope(entry_json) };
        self.parked_as(body, reason, detail)
    }

    fn parked_as(&self, body: Vec<u8>, reason: &str, detail: &str) -> Outgoing {
        let mut headers = kept_headers(self.properties.headers().as_ref());
        insert_text(&mut headers, "x-overdue-reason", reason);
        let detail: String = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        insert_text(&mut headers, "x-overdue-detail", &detail);
        if let Some(id) = self.properties.message_id() {
            insert_text(&mut headers, "x-overdue-original-message-id", id.as_str());
        }
        let mut properties = BasicProperties::default().with_headers(headers);
        if let Some(content_type) = self.properties.content_type() {
            properties = properties.with_content_type(content_type.clone());
        }
        if let Some(correlation_id) = self.properties.correlation_id() {
            properties = properties.with_correlation_id(correlation_id.clone());
        }
        Outgoing { exchange: PARKED_EXCHANGE, routing_key: self.routing_key.clone(), body, properties }
    }
}

/// The most characters of a detail: all headers must fit into one frame.
const DETAIL_CHARACTERS_MAX: usize = 2_000;

/// The most bytes of names and texts in foreign headers that are kept when a message is parked. All headers
/// must fit into one AMQP frame (128 KiB by default) together with ours.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The message's own headers, but for two things. `CC` and `BCC` are instructions to the broker and would
/// send the parked message elsewhere too, so they stand under another name. And headers too large to go back
/// into a frame are left out, which a header says.
fn kept_headers(original: Option<&FieldTable>) -> FieldTable {
    let mut kept = FieldTable::default();
    let Some(original) = original else { return kept };
    if size_of_table(original) > HEADER_BYTES_MAX {
        insert_text(&mut kept, "x-overdue-headers-left-out", "too large");
        return kept;
    }
    for (name, value) in original.inner() {
        let name = match name.as_str() {
            "CC" => "x-overdue-original-cc".into(),
            "BCC" => "x-overdue-original-bcc".into(),
            // Whoever sends it in again begins anew.
            ATTEMPT_HEADER => "x-overdue-attempts-made".into(),
            _ => name.clone(),
        };
        kept.insert(name, value.clone());
    }
    kept
}

/// Bytes as AMQP encodes them: each name with its length, each value with its type and, mostly, its length.
fn size_of_table(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + size_of_value(value)).sum()
}

fn size_of_value(value: &AMQPValue) -> usize {
    const TYPE_AND_LENGTH: usize = 5;
    TYPE_AND_LENGTH
        + match value {
            AMQPValue::ShortString(text) => text.as_str().len(),
            AMQPValue::LongString(text) => text.len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            AMQPValue::FieldArray(values) => values.as_slice().iter().map(size_of_value).sum(),
            AMQPValue::FieldTable(table) => size_of_table(table),
            // Everything else is a number of at most eight bytes.
            _ => 8,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_headers_cannot_route_and_always_fit() {
        let mut original = FieldTable::default();
        insert_text(&mut original, "CC", "elsewhere");
        insert_text(&mut original, "tenant", "shop-7");
        let kept = kept_headers(Some(&original));
        assert!(!kept.contains_key("CC") && kept.contains_key("x-overdue-original-cc") && kept.contains_key("tenant"));

        insert_text(&mut original, "tenant", &"x".repeat(HEADER_BYTES_MAX));
        let kept = kept_headers(Some(&original));
        assert!(!kept.contains_key("tenant") && kept.contains_key("x-overdue-headers-left-out"));
    }
}
