use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use order::{Shard, TimeoutKind};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::connection::close;
use crate::incoming::DeliveryTag;
use crate::routing::due_queue;
use crate::{Broker, BrokerError, Incoming};

/// One life of a consumer: a connection, a channel and a subscription of its own. When any of them ends, the
/// whole session ends and its owner opens another. What was not acked comes back from the broker then.
pub struct Session {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    queue: String,
    route: (TimeoutKind, Shard),
    /// What has arrived and was not received yet.
    arrived: Vec<Incoming>,
    /// What was received and not acked.
    unacked: BTreeSet<DeliveryTag>,
    /// Why it has ended; `None`: it has not. The consumer's stream tells its end only once, perhaps while messages are in hand.
    ended: Option<SessionEnd>,
}

/// Why a session has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// In words.
    pub why: String,
    /// How long the broker lets a consumer have messages in hand, if it was for that.
    pub consumer_timeout: Option<Duration>,
}

/// How the tags of our consumers begin, by which they are told from others'.
pub(crate) const CONSUMER_TAG: &str = "overdue-";

/// A tag for a consumer of ours.
pub(crate) fn consumer_tag() -> String {
    format!("{CONSUMER_TAG}{}", Uuid::now_v7())
}

/// How long handing an ack to the connection may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects and subscribes to the due queue of this kind and shard. `prefetch` is the only bound on what the broker
    /// sends ahead.
    ///
    /// # Errors
    /// [`BrokerError`]; the queue is not declared, only consumed.
    pub async fn open(broker: &Broker, kind: TimeoutKind, shard: Shard, prefetch: u16) -> Result<Self, BrokerError> {
        let connection = broker.connect("consumer").await?;
        let channel = broker.channel(&connection).await?;
        let error = |error: lapin::Error| broker.error(&error);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(error)?;
        let queue = due_queue(kind, shard);
        let consumer = channel
            .basic_consume(
                queue.as_str().into(),
                consumer_tag().as_str().into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(error)?;
        let (broker, route) = (broker.clone(), (kind, shard));
        let (arrived, unacked) = (Vec::new(), BTreeSet::new());
        Ok(Self { broker, connection, channel, consumer, queue, route, arrived, unacked, ended: None })
    }

    /// Waits for a message and takes with it the others that have arrived already, or arrive within `linger`, until the
    /// messages name `orders_max` orders or more. As long as all of them tell when their orders are due, it takes what
    /// else has arrived, until they name `ahead_max`. `None` when the session has ended: the queue was deleted, or the
    /// connection is gone.
    ///
    /// May be dropped while it waits: what has arrived by then is received next time.
    pub async fn receive(&mut self, orders_max: usize, ahead_max: usize, linger: Duration) -> Option<Vec<Incoming>> {
        if self.arrived.is_empty() {
            let first = self.next().await?;
            self.arrived.push(self.read(first));
        }
        let mut orders: usize = self.arrived.iter().map(Incoming::weight).sum();
        let mut all_tell = self.arrived.iter().all(|message| message.due().is_some());
        let last_call = Instant::now() + linger;
        while orders < orders_max || (all_tell && orders < ahead_max) {
            let delivery = match self.next().now_or_never() {
                Some(delivery) => delivery,
                None if linger.is_zero() || orders >= orders_max => break,
                None => timeout_at(last_call, self.next()).await.ok().flatten(),
            };
            let Some(delivery) = delivery else { break };
            let message = self.read(delivery);
            orders += message.weight();
            all_tell &= message.due().is_some();
            self.arrived.push(message);
        }
        self.unacked.extend(self.arrived.iter().map(Incoming::tag));
        Some(std::mem::take(&mut self.arrived))
    }

    /// How many messages were received and not acked.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Acks messages that this session has brought. Only for when their effects are committed and their follow-ups are confirmed.
    ///
    /// # Errors
    /// [`BrokerError`] if the session has ended meanwhile: then they will come again.
    pub async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), BrokerError> {
        for tag in tags {
            self.unacked.remove(tag);
        }
        // What lies before all that is still in hand needs one ack; the others need one each.
        let first_unacked = self.unacked.first().copied();
        let is_before = |tag: &&DeliveryTag| first_unacked.is_none_or(|first| **tag < first);
        let (before, beside): (Vec<&DeliveryTag>, Vec<&DeliveryTag>) = tags.iter().partition(is_before);
        let all = before.into_iter().max().map(|tag| (tag, true));
        for (tag, multiple) in all.into_iter().chain(beside.into_iter().map(|tag| (tag, false))) {
            let ack = self.channel.basic_ack(tag.0, BasicAckOptions { multiple });
            // On a channel that the broker closes at this moment, lapin may never answer.
            match timeout(ACK_TIMEOUT, ack).await {
                Ok(acked) => acked.map_err(|error| self.broker.error(&error))?,
                Err(_) => {
                    let (address, timeout_ms) = (self.broker.address().to_owned(), ACK_TIMEOUT.as_millis());
                    return Err(BrokerError::Timeout { address, timeout_ms });
                }
            }
        }
        Ok(())
    }

    /// Tells the broker to send nothing more, and hangs up. What was sent ahead and not taken goes back to
    /// the queue.
    pub async fn close(self) {
        let politely = async {
            let _ = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default()).await;
            let _ = self.channel.close(200, "OK".into()).await;
        };
        // The connection may be dead without a sign of it.
        let _ = timeout(Duration::from_secs(2), politely).await;
        close(&self.connection).await;
    }

    async fn next(&mut self) -> Option<Delivery> {
        if self.ended.is_some() {
            return None;
        }
        // An error is always followed by the end of the stream: both mean that the session is over.
        let why = match self.consumer.next().await {
            Some(Ok(delivery)) => return Some(delivery),
            Some(Err(error)) => self.broker.error(&error).to_string(),
            None => "the subscription has ended".to_owned(),
        };
        self.ended = Some(SessionEnd { consumer_timeout: consumer_timeout(&why), why });
        None
    }

    /// Why it has ended, once [`Session::receive`] has said that it has.
    #[must_use]
    pub fn end(&self) -> SessionEnd {
        let gone = || SessionEnd { why: "the subscription has ended".to_owned(), consumer_timeout: None };
        self.ended.clone().unwrap_or_else(gone)
    }

    fn read(&self, delivery: Delivery) -> Incoming {
        Incoming::read(delivery, &self.queue, self.route)
    }
}

/// The limit that RabbitMQ names when it takes messages for lost
/// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
fn consumer_timeout(why: &str) -> Option<Duration> {
    let (_, after) = why.split_once("Timeout value used: ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read_from_what_the_broker_says() {
        let said = "AMQP: PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 10000 ms. This timeout value can be configured";
        assert_eq!(consumer_timeout(said), Some(Duration::from_secs(10)));
        assert_eq!(consumer_timeout("the subscription has ended"), None);
    }
}
