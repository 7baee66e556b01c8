use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use order::{Hop, OrderId};
use tokio::time::{Instant, timeout, timeout_at};
use trace::TraceParent;

use crate::connection::close;
use crate::outgoing::{ATTEMPT_HEADER, HISTORY_HEADER, insert_text};
use crate::topology::{LANES_EXCHANGE, PARKED_EXCHANGE, kind_and_shard, routing_key};
use crate::wire::{self, Decoded, Fault};
use crate::{Broker, BrokerError, Outgoing, Tried};

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

    /// Waits for a message and takes with it whatever else has arrived already, or arrives within `linger`, until the
    /// messages name `orders_max` orders or more. `None` when the session has ended: the queue was deleted, or the
    /// connection is gone.
    ///
    /// May be dropped while it waits; what it has taken by then comes again when the session has ended.
    pub async fn receive(&mut self, orders_max: usize, linger: Duration) -> Option<Batch> {
        let mut messages = vec![Incoming::read(self.next().await?)];
        let mut orders = messages[0].weight();
        let last_call = Instant::now() + linger;
        while orders < orders_max {
            let delivery = match self.next().now_or_never() {
                Some(delivery) => delivery,
                None if linger.is_zero() => break,
                None => timeout_at(last_call, self.next()).await.ok().flatten(),
            };
            let Some(delivery) = delivery else { break };
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

    /// How often its orders were looked at in vain, as its headers say.
    #[must_use]
    pub fn tried(&self) -> Tried {
        Tried::read(self.properties.headers().as_ref())
    }

    /// Which trace it belongs to, if its headers say so.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        match self.properties.headers().as_ref()?.inner().get(trace::HEADER) {
            Some(AMQPValue::LongString(text)) => text.to_string().parse().ok(),
            _ => None,
        }
    }

    /// These of its orders as a message that goes round once more, to wait where `hop` says: the message itself where
    /// it names no others, else one of its own.
    #[must_use]
    pub fn again(&self, orders: &[OrderId], hop: Hop, tried: &Tried) -> Outgoing {
        // An order ID needs no escaping in JSON.
        let entries: Vec<String> = orders.iter().map(|id| format!("{{\"id\":\"{id}\"}}")).collect();
        let body = self.body_for(&entries.join(","));
        let mut headers = without(&kept_headers(self.properties.headers().as_ref()), tells_of_death);
        tried.insert_into(&mut headers);
        let (kind, shard) = kind_and_shard(&self.routing_key);
        let routing_key = routing_key(hop.lane, kind, shard);
        self.passed_on(LANES_EXCHANGE, routing_key, body, headers).expiring(hop)
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
        self.parked_as(self.body_for(entry_json), reason, detail)
    }

    /// The bytes under which this entry, or these, travel without the others: the message's own if there are none.
    fn body_for(&self, entries_json: &str) -> Vec<u8> {
        let alone = self.content.as_ref().is_ok_and(|decoded| decoded.orders.len() + decoded.bad_entries.len() == 1);
        if alone { self.body.clone() } else { wire::envelope(entries_json) }
    }

    fn parked_as(&self, body: Vec<u8>, reason: &str, detail: &str) -> Outgoing {
        let mut headers = kept_headers(self.properties.headers().as_ref());
        insert_text(&mut headers, REASON_HEADER, reason);
        let detail: String = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        insert_text(&mut headers, DETAIL_HEADER, &detail);
        // Under another name: whoever sends it in again begins anew.
        let mut tried = FieldTable::default();
        self.tried().insert_into(&mut tried);
        if let Some(attempts) = tried.inner().get(ATTEMPT_HEADER) {
            headers.insert(ATTEMPTS_MADE_HEADER.into(), attempts.clone());
        }
        if let Some(history) = tried.inner().get(HISTORY_HEADER) {
            headers.insert(HISTORY_HEADER.into(), history.clone());
        }
        self.passed_on(PARKED_EXCHANGE, self.routing_key.clone(), body, headers)
    }

    /// A message of ours in the place of this one.
    fn passed_on(
        &self,
        exchange: &'static str,
        routing_key: String,
        body: Vec<u8>,
        mut headers: FieldTable,
    ) -> Outgoing {
        if let Some(id) = self.properties.message_id().as_ref().filter(|_| !headers.contains_key(ORIGINAL_ID_HEADER)) {
            insert_text(&mut headers, ORIGINAL_ID_HEADER, id.as_str());
        }
        Outgoing { exchange, routing_key, body, properties: carried_on(&self.properties, headers), mandatory: true }
    }
}

/// Why a message was parked: a short, stable name.
pub(crate) const REASON_HEADER: &str = "x-overdue-reason";
/// The same in a sentence.
pub(crate) const DETAIL_HEADER: &str = "x-overdue-detail";
/// How often the orders of a parked message were looked at in vain.
pub(crate) const ATTEMPTS_MADE_HEADER: &str = "x-overdue-attempts-made";
/// The message ID under which it first came.
const ORIGINAL_ID_HEADER: &str = "x-overdue-original-message-id";

/// What a message of ours keeps of the properties of the one in whose place it goes, besides these headers.
pub(crate) fn carried_on(original: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(content_type) = original.content_type() {
        properties = properties.with_content_type(content_type.clone());
    }
    if let Some(correlation_id) = original.correlation_id() {
        properties = properties.with_correlation_id(correlation_id.clone());
    }
    properties
}

/// Whether a header is what the broker has written of the message's way so far. A message that is published anew with it
/// would look to the broker as if it went in a circle, and some versions drop it then.
pub(crate) fn tells_of_death(name: &str) -> bool {
    name == "x-death" || name.starts_with("x-first-death-") || name.starts_with("x-last-death-")
}

/// The headers without some.
pub(crate) fn without(headers: &FieldTable, left_out: impl Fn(&str) -> bool) -> FieldTable {
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner().iter().filter(|(name, _)| !left_out(name.as_str())) {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

/// The most characters of a detail: all headers must fit into one frame.
const DETAIL_CHARACTERS_MAX: usize = 2_000;

/// The most bytes of names and texts in foreign headers that are kept when a message is parked. All headers
/// must fit into one AMQP frame (128 KiB by default) together with ours.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The message's own headers, but for three things. `CC` and `BCC` are instructions to the broker and would
/// send the parked message elsewhere too, so they stand under another name. And headers too large to go back
/// into a frame are left out, which a header says. And those that count attempts are not copied.
pub(crate) fn kept_headers(original: Option<&FieldTable>) -> FieldTable {
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
            // Written anew, where they still hold.
            ATTEMPT_HEADER | HISTORY_HEADER => continue,
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
