use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::time::timeout;
use uuid::Uuid;

use crate::connection::close;
use crate::{Broker, BrokerError, Outgoing};

/// Publishes messages and says of each whether the broker has it.
///
/// It has a connection and a channel to itself: a connection that the broker blocks (for lack of memory or
/// disk) must not stop acks, and on a channel with one user the confirms of two batches cannot mix. A broken
/// connection is replaced at the next call.
pub struct Publisher {
    broker: Broker,
    purpose: &'static str,
    confirm_timeout: Duration,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    channel: Channel,
}

/// Why a message does not count as published. It may have arrived all the same: publish it again, duplicates
/// are harmless.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotPublished {
    /// No queue takes messages with this exchange and routing key.
    #[error("no queue is bound for {0}")]
    Unroutable(String),
    /// The broker refused it, for example because a queue is full.
    #[error("the broker refused the message")]
    Refused,
    /// The broker did not confirm it in time. A broker low on memory or disk blocks publishers.
    #[error("not confirmed within {0} ms")]
    Unconfirmed(u128),
    /// The broker reads nothing from publishers until it has memory and disk again. Nothing was sent.
    #[error("the broker blocks publishers: it is low on memory or disk")]
    Blocked,
    /// The connection was not there, or broke on the way.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Delivery mode 2: the message survives a restart of the broker. It carries over when the message is dead-lettered.
const PERSISTENT: u8 = 2;

/// How long a publish to a broker that blocks publishers waits before it gives up.
const BLOCKED_LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many messages may be on the way, not yet confirmed, at a time.
const IN_FLIGHT_MAX: usize = 1024;

impl Publisher {
    /// How long the broker usually may take to confirm what is published.
    pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

    /// A publisher that connects when it is first used. `purpose` is shown in RabbitMQ's listings.
    #[must_use]
    pub fn new(broker: Broker, purpose: &'static str, confirm_timeout: Duration) -> Self {
        Self { broker, purpose, confirm_timeout, open: None }
    }

    /// Publishes all `messages`, in their order, and waits until the fate of each is known. The results stand
    /// in the same order.
    pub async fn publish(&mut self, messages: &[Outgoing]) -> Vec<Result<(), NotPublished>> {
        let mut batch = InFlight::of(messages.len());
        if self.is_blocked() {
            // Sent now, it would only be sent again, and all of it would arrive once the broker reads on.
            tokio::time::sleep(BLOCKED_LOOK_EVERY.min(self.confirm_timeout)).await;
            if self.is_blocked() {
                batch.fail_rest(&NotPublished::Blocked);
                return batch.into_results(messages);
            }
        }
        match timeout(self.confirm_timeout, self.publish_into(messages, &mut batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.open = None;
                batch.fail_rest(&NotPublished::Broker(error));
            }
            Err(_) => {
                // A confirm that comes from now on belongs to no message of ours. A blocked connection is kept: it
                // cannot even be closed before the broker reads on, and each new one would be blocked as well.
                if !self.is_blocked() {
                    self.open = None;
                }
                batch.fail_rest(&NotPublished::Unconfirmed(self.confirm_timeout.as_millis()));
            }
        }
        batch.into_results(messages)
    }

    /// Like [`Publisher::publish`], for callers who treat the messages as one.
    ///
    /// # Errors
    /// The first message's that was not published.
    pub async fn publish_all(&mut self, messages: &[Outgoing]) -> Result<(), NotPublished> {
        self.publish(messages).await.into_iter().collect()
    }

    /// Hangs up, if connected.
    pub async fn close(mut self) {
        if let Some(open) = self.open.take() {
            close(&open.connection).await;
        }
    }

    fn is_blocked(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.connection.status().blocked() && open.channel.status().connected())
    }

    async fn publish_into(&mut self, messages: &[Outgoing], batch: &mut InFlight) -> Result<(), BrokerError> {
        if messages.is_empty() {
            return Ok(());
        }
        let broker = self.broker.clone();
        let channel = self.channel().await?;
        for message in messages {
            if batch.waiting() >= IN_FLIGHT_MAX {
                batch.settle_next(&broker).await?;
            }
            let message_id = Uuid::now_v7().to_string();
            let properties = message
                .properties
                .clone()
                .with_delivery_mode(PERSISTENT)
                .with_timestamp(unix_seconds())
                .with_app_id("overdue".into())
                .with_message_id(message_id.as_str().into());
            let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
            let (exchange, key) = (message.exchange.into(), message.routing_key.as_str().into());
            let confirm = channel.basic_publish(exchange, key, options, &message.body, properties).await;
            batch.sent(message_id, confirm.map_err(|error| broker.error(&error))?);
        }
        while batch.waiting() > 0 {
            batch.settle_next(&broker).await?;
        }
        Ok(())
    }

    async fn channel(&mut self) -> Result<Channel, BrokerError> {
        if let Some(open) = self.open.as_ref().filter(|open| open.channel.status().connected()) {
            return Ok(open.channel.clone());
        }
        self.open = None;
        let connection = self.broker.connect_to_publish(self.purpose).await?;
        let channel = self.broker.channel(&connection).await?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.map_err(|error| self.broker.error(&error))?;
        self.open = Some(Open { connection, channel: channel.clone() });
        Ok(channel)
    }
}

/// What is known of the messages of one call.
struct InFlight {
    /// By position; `None` until the fate is known.
    fates: Vec<Option<Result<(), NotPublished>>>,
    /// Confirms not yet awaited, oldest first: those of the positions `settled..sent`.
    confirms: std::collections::VecDeque<PublisherConfirm>,
    settled: usize,
    /// Message IDs to positions. A returned message comes with whichever confirm resolves next, so only its
    /// ID tells which one it is.
    positions: HashMap<String, usize>,
    returned: Vec<usize>,
}

impl InFlight {
    fn of(count: usize) -> Self {
        Self {
            fates: (0..count).map(|_| None).collect(),
            confirms: std::collections::VecDeque::new(),
            settled: 0,
            positions: HashMap::with_capacity(count),
            returned: Vec::new(),
        }
    }

    fn waiting(&self) -> usize {
        self.confirms.len()
    }

    fn sent(&mut self, message_id: String, confirm: PublisherConfirm) {
        self.positions.insert(message_id, self.settled + self.confirms.len());
        self.confirms.push_back(confirm);
    }

    /// Awaits the oldest confirm. It stays in its place until it has resolved, so nothing is lost if the
    /// time is up meanwhile.
    async fn settle_next(&mut self, broker: &Broker) -> Result<(), BrokerError> {
        let Some(confirm) = self.confirms.front_mut() else { return Ok(()) };
        let confirmation = confirm.await.map_err(|error| broker.error(&error))?;
        self.confirms.pop_front();
        self.fates[self.settled] = Some(match &confirmation {
            Confirmation::Ack(_) => Ok(()),
            // A channel that is not in confirm mode tells nothing; it would be a bug of ours.
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(NotPublished::Refused),
        });
        self.settled += 1;
        if let Some(message) = confirmation.take_message() {
            let id = message.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned());
            self.returned.extend(id.and_then(|id| self.positions.get(&id).copied()));
        }
        Ok(())
    }

    fn fail_rest(&mut self, reason: &NotPublished) {
        for fate in self.fates.iter_mut().filter(|fate| fate.is_none()) {
            *fate = Some(Err(reason.clone()));
        }
    }

    fn into_results(mut self, messages: &[Outgoing]) -> Vec<Result<(), NotPublished>> {
        for position in self.returned {
            let message = &messages[position];
            let route = format!("{} with key {}", message.exchange, message.routing_key);
            self.fates[position] = Some(Err(NotPublished::Unroutable(route)));
        }
        // Every fate is known here; were one not, the message would count as not published.
        self.fates.into_iter().map(|fate| fate.unwrap_or(Err(NotPublished::Refused))).collect()
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
