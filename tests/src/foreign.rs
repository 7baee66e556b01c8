use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::eventually;

/// An AMQP client that knows nothing of this project: a service in another language.
pub struct Foreign {
    _connection: Connection,
    /// In confirm mode.
    pub channel: Channel,
}

/// A message that was taken out of a queue.
#[derive(Debug)]
pub struct ParkedMessage {
    /// Its bytes.
    pub body: Vec<u8>,
    /// Its headers.
    pub headers: FieldTable,
    /// Its routing key.
    pub routing_key: String,
}

impl Foreign {
    pub(crate) async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm mode");
        Self { _connection: connection, channel }
    }

    /// Publishes a persistent message and waits for the confirm.
    pub async fn publish(&self, exchange: &str, routing_key: &str, body: &[u8], properties: BasicProperties) {
        let properties = properties.with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
        assert!(confirm.expect("published").await.expect("confirmed").is_ack());
    }

    /// Publishes a bare order ID, or whatever else, so that it is due at once.
    pub async fn due_now(&self, body: &[u8]) {
        self.publish("overdue.due", "30m.payment", body, BasicProperties::default()).await;
    }

    /// Declares a queue of this name that gets the events of this type, or pattern of types.
    pub async fn subscribe(&self, queue: &str, pattern: &str) {
        let (options, nothing) = (QueueDeclareOptions { durable: true, ..Default::default() }, FieldTable::default);
        self.channel.queue_declare(queue.into(), options, nothing()).await.expect("a queue");
        let (exchange, options) = ("overdue.events".into(), QueueBindOptions::default());
        self.channel.queue_bind(queue.into(), exchange, pattern.into(), options, nothing()).await.expect("a binding");
    }

    /// Takes messages out of the parked queue until there are `count`; fails if there are more.
    pub async fn parked(&self, count: usize) -> Vec<ParkedMessage> {
        self.take("overdue.v1.parked", count).await
    }

    /// Takes messages out of a queue until there are `count`; fails if there are more.
    pub async fn take(&self, queue: &str, count: usize) -> Vec<ParkedMessage> {
        let mut messages = Vec::new();
        let channel = &self.channel;
        let get = async || channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("basic.get");
        let mut take = async || {
            while let Some(message) = get().await {
                messages.push(ParkedMessage {
                    routing_key: message.delivery.routing_key.as_str().to_owned(),
                    headers: message.delivery.properties.headers().clone().unwrap_or_default(),
                    body: message.delivery.data,
                });
            }
            messages.len() >= count
        };
        // A closure that is called again and again cannot lend its counter out, hence the loop by hand.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while !take().await {
            assert!(tokio::time::Instant::now() < deadline, "{queue} had fewer than {count} messages");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(messages.len(), count, "{messages:?}");
        messages
    }

    /// Waits until a queue holds `count` messages that nobody has taken.
    pub async fn queue_holds(&self, queue: &str, count: u32) {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        eventually(&format!("{queue} holds {count}"), async || {
            let declared =
                self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("the queue");
            declared.message_count() == count
        })
        .await;
    }
}

impl ParkedMessage {
    /// A header that is a text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        match self.headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()),
            _ => None,
        }
    }

    /// Why it was parked.
    #[must_use]
    pub fn reason(&self) -> String {
        self.header("x-overdue-reason").unwrap_or_default()
    }
}
