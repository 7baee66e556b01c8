use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::time::timeout;

use crate::connection::close;
use crate::session::consumer_tag;
use crate::{Broker, BrokerError};

/// A consumer of a queue, with a connection and a channel of its own. What it has taken and not acked goes back when it is closed,
/// or when the program dies.
pub(crate) struct Subscription {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

impl Subscription {
    /// Connects, under this name, and subscribes. The broker sends `prefetch` messages ahead at the most.
    pub(crate) async fn open(broker: &Broker, name: &str, queue: &str, prefetch: u16) -> Result<Self, BrokerError> {
        let connection = broker.connect(name).await?;
        let channel = broker.channel(&connection).await?;
        let error = |error: lapin::Error| broker.error(&error);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(error)?;
        let (options, nothing) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel
            .basic_consume(queue.into(), consumer_tag().as_str().into(), options, nothing)
            .await
            .map_err(error)?;
        Ok(Self { broker: broker.clone(), connection, channel, consumer })
    }

    /// Waits for a message and takes with it the others that have arrived, until they have `bytes_max` or more. `None` when the
    /// subscription has ended.
    ///
    /// May be dropped while it waits.
    pub(crate) async fn receive(&mut self, bytes_max: usize) -> Option<Vec<Delivery>> {
        let first = self.next().await?;
        let mut bytes = first.data.len();
        let mut deliveries = vec![first];
        while bytes < bytes_max
            && let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never()
        {
            bytes += delivery.data.len();
            deliveries.push(delivery);
        }
        Some(deliveries)
    }

    /// Waits for a message. `None` when the subscription has ended.
    ///
    /// May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        self.consumer.next().await?.ok()
    }

    /// Takes the message with this tag out of the queue for good.
    pub(crate) async fn ack(&self, tag: u64) -> Result<(), BrokerError> {
        self.ack_with(tag, BasicAckOptions { multiple: false }).await
    }

    /// Takes the message with this tag, and all before it, out of the queue for good.
    pub(crate) async fn ack_up_to(&self, tag: u64) -> Result<(), BrokerError> {
        self.ack_with(tag, BasicAckOptions { multiple: true }).await
    }

    async fn ack_with(&self, tag: u64, options: BasicAckOptions) -> Result<(), BrokerError> {
        self.channel.basic_ack(tag, options).await.map_err(|error| self.broker.error(&error))
    }

    /// Gives everything back that was not acked, and hangs up.
    pub(crate) async fn close(self) {
        // Politely, so that the acks before it have arrived.
        let _ = timeout(Duration::from_secs(2), self.channel.close(200, "OK".into())).await;
        close(&self.connection).await;
    }
}
