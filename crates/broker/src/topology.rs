//! The one place that knows every exchange, queue and binding: their names, kinds and arguments.
//!
//! A version stands in the names of the queues, so that a changed argument is a new queue and never a
//! conflict with an old one.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use order::{Lane, Lanes, Shard};
use serde_json::{Value, json};

use crate::connection::close;
use crate::{Broker, BrokerError};

/// Where foreign publishers' messages enter a lane; the routing key is `<lane>.<kind>`. What no lane wants is
/// rescued.
pub const DELAY_EXCHANGE: &str = "overdue.delay";
/// Where our own messages enter a lane, with the same keys. Nothing is rescued here: a rescued message counts as
/// routed, and a publisher that keeps what was not routed must learn of it.
pub const LANES_EXCHANGE: &str = "overdue.lanes";
/// Where messages go when their lane's time has passed, with the routing key that they had.
pub const DUE_EXCHANGE: &str = "overdue.due";
/// Where messages are set aside for a person.
pub const PARKED_EXCHANGE: &str = "overdue.parked";
/// Where messages go that no lane, or no due queue, wants.
pub const UNROUTABLE_EXCHANGE: &str = "overdue.unroutable";
/// Where facts about orders are announced.
pub const EVENTS_EXCHANGE: &str = "overdue.events";
/// The queue of payment timeouts that are due; workers consume it.
pub const DUE_PAYMENT_QUEUE: &str = "overdue.v1.due.payment";
/// The queue of orders whose payment gateway has to be asked. Apart from the other, so that a slow gateway holds up
/// nobody who does not need it.
pub const DUE_GATEWAY_QUEUE: &str = "overdue.v1.due.gateway";
/// The queue of what was set aside; nothing consumes it.
pub const PARKED_QUEUE: &str = "overdue.v1.parked";
/// The kind of timeout that closes unpaid orders: the second word of the routing key.
pub const PAYMENT_KIND: &str = "payment";

/// The kind of timeout after which a payment gateway is asked.
pub const GATEWAY_KIND: &str = "gateway";
/// In the place of a lane's name: no lane, but at once.
pub const NOW: &str = "now";

/// How often a message may come back to the due queue before the broker parks it: a worker that dies each
/// time it meets the message must not do so for ever. 20 is also the default of RabbitMQ 4.0.
pub const DELIVERY_LIMIT: i64 = 20;

/// Looking at parked messages takes them out and gives them back. RabbitMQ 4 would drop what was given back 20 times, and
/// knows no way of saying "never" that older versions take as well.
pub const PARKED_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The queue in which messages of this shard wait that go by this lane.
#[must_use]
pub fn lane_queue(lane: Lane, shard: Shard) -> String {
    format!("overdue.v1.delay.{lane}{shard}")
}

/// The queue of this shard's payment timeouts that are due.
#[must_use]
pub fn due_payment_queue(shard: Shard) -> String {
    format!("{DUE_PAYMENT_QUEUE}{shard}")
}

/// The queue of this shard's orders whose payment gateway has to be asked.
#[must_use]
pub fn due_gateway_queue(shard: Shard) -> String {
    format!("{DUE_GATEWAY_QUEUE}{shard}")
}

/// What leads by way of `lane` (or [`NOW`]) to the due queue of this kind.
pub(crate) fn routing_key(lane: impl std::fmt::Display, kind: &str, shard: Shard) -> String {
    format!("{lane}.{kind}{shard}")
}

/// The kind, and the shard, that a routing key names.
pub(crate) fn kind_and_shard(routing_key: &str) -> (&'static str, Shard) {
    let mut words = routing_key.split('.').skip(1);
    let kind = if words.next() == Some(GATEWAY_KIND) { GATEWAY_KIND } else { PAYMENT_KIND };
    (kind, words.next().map_or(Shard::FIRST, Shard::named))
}

/// All objects of a deployment with certain lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) arguments: Arguments,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) arguments: Arguments,
}

/// A binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) source: &'static str,
    pub(crate) queue: String,
    pub(crate) routing_key: String,
}

pub(crate) type Arguments = Vec<(&'static str, Argument)>;

/// An argument's value: RabbitMQ's `x-` arguments are texts and whole numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    Text(&'static str),
    Number(i64),
}

use Argument::{Number, Text};

impl Topology {
    /// The topology with these lanes.
    #[must_use]
    pub fn new(lanes: &Lanes) -> Self {
        let mut topology = Self { exchanges: exchanges(), queues: Vec::new(), bindings: Vec::new() };
        for shard in lanes.shards().iter() {
            for lane in lanes.iter() {
                // Any kind: `*` is one word, so the keys of one shard are never those of another.
                let (queue, key) = (lane_queue(lane, shard), routing_key(lane, "*", shard));
                topology.add_queue(queue.clone(), lane_arguments(lane), DELAY_EXCHANGE, key.clone());
                topology.bindings.push(Binding { source: LANES_EXCHANGE, queue, routing_key: key });
            }
            let (due, asked) = (due_payment_queue(shard), due_gateway_queue(shard));
            topology.add_queue(due, due_arguments(), DUE_EXCHANGE, routing_key('*', PAYMENT_KIND, shard));
            topology.add_queue(asked.clone(), due_arguments(), DUE_EXCHANGE, routing_key('*', GATEWAY_KIND, shard));
            topology.bindings.push(Binding {
                source: LANES_EXCHANGE,
                queue: asked,
                routing_key: routing_key(NOW, GATEWAY_KIND, shard),
            });
        }
        topology.add_queue(
            PARKED_QUEUE.to_owned(),
            vec![("x-queue-type", Text("quorum")), ("x-delivery-limit", Number(PARKED_DELIVERY_LIMIT))],
            PARKED_EXCHANGE,
            String::new(),
        );
        topology.bindings.push(Binding {
            source: UNROUTABLE_EXCHANGE,
            queue: PARKED_QUEUE.to_owned(),
            routing_key: String::new(),
        });
        topology
    }

    /// The queues that workers consume.
    pub(crate) fn due_queues(&self) -> impl Iterator<Item = &str> {
        let due = |name: &&str| name.starts_with(DUE_PAYMENT_QUEUE) || name.starts_with(DUE_GATEWAY_QUEUE);
        self.queues.iter().map(|queue| queue.name.as_str()).filter(due)
    }

    fn add_queue(&mut self, name: String, arguments: Arguments, source: &'static str, routing_key: String) {
        self.queues.push(Queue { name: name.clone(), arguments });
        self.bindings.push(Binding { source, queue: name, routing_key });
    }

    /// Creates whatever is missing. Objects that are there already and alike stay as they are.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] if an object exists with other arguments; the objects before it are created.
    pub async fn declare(&self, broker: &Broker) -> Result<(), BrokerError> {
        let connection = broker.connect("topology").await?;
        let channel = broker.channel(&connection).await?;
        let outcome = self.declare_on(&channel).await.map_err(|error| broker.error(&error));
        close(&connection).await;
        outcome
    }

    async fn declare_on(&self, channel: &Channel) -> Result<(), lapin::Error> {
        for exchange in &self.exchanges {
            exchange.declare(channel).await?;
        }
        for queue in &self.queues {
            queue.declare(channel).await?;
        }
        for binding in &self.bindings {
            let (queue, source) = (binding.queue.as_str().into(), binding.source.into());
            let key = binding.routing_key.as_str().into();
            channel.queue_bind(queue, source, key, QueueBindOptions::default(), FieldTable::default()).await?;
        }
        Ok(())
    }

    /// The same objects as a definitions file, for `rabbitmqctl import_definitions` and the like.
    #[must_use]
    pub fn definitions(&self, vhost: &str) -> Value {
        let exchanges = self.exchanges.iter().map(|exchange| {
            json!({
                "name": exchange.name, "vhost": vhost, "type": exchange.kind,
                "durable": true, "auto_delete": false, "internal": false,
                "arguments": arguments_json(&exchange.arguments),
            })
        });
        let queues = self.queues.iter().map(|queue| {
            json!({
                "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false,
                "arguments": arguments_json(&queue.arguments),
            })
        });
        let bindings = self.bindings.iter().map(|binding| {
            json!({
                "source": binding.source, "vhost": vhost, "destination": binding.queue,
                "destination_type": "queue", "routing_key": binding.routing_key, "arguments": {},
            })
        });
        json!({
            "vhosts": [{ "name": vhost }],
            "exchanges": exchanges.collect::<Vec<_>>(),
            "queues": queues.collect::<Vec<_>>(),
            "bindings": bindings.collect::<Vec<_>>(),
        })
    }
}

fn exchanges() -> Vec<Exchange> {
    let rescued = || vec![("alternate-exchange", Text(UNROUTABLE_EXCHANGE))];
    let exchange = |name, kind, arguments| Exchange { name, kind, arguments };
    vec![
        exchange(UNROUTABLE_EXCHANGE, "fanout", vec![]),
        exchange(PARKED_EXCHANGE, "fanout", vec![]),
        exchange(DELAY_EXCHANGE, "topic", rescued()),
        exchange(LANES_EXCHANGE, "topic", vec![]),
        exchange(DUE_EXCHANGE, "topic", rescued()),
        exchange(EVENTS_EXCHANGE, "topic", vec![]),
    ]
}

/// At-least-once dead-lettering needs all four: a quorum queue, an exchange to go to, the strategy, and
/// `reject-publish`; with the default overflow the broker silently falls back to at-most-once
/// (<https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>). No `x-dead-letter-routing-key`: the key
/// must survive. Never `x-expires`: it would delete the queue with all that waits in it.
fn lane_arguments(lane: Lane) -> Arguments {
    vec![
        ("x-queue-type", Text("quorum")),
        ("x-message-ttl", Number(lane.ttl_ms().cast_signed())),
        ("x-dead-letter-exchange", Text(DUE_EXCHANGE)),
        ("x-dead-letter-strategy", Text("at-least-once")),
        ("x-overflow", Text("reject-publish")),
    ]
}

fn due_arguments() -> Arguments {
    vec![
        ("x-queue-type", Text("quorum")),
        ("x-delivery-limit", Number(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", Text(PARKED_EXCHANGE)),
        ("x-dead-letter-strategy", Text("at-least-once")),
        ("x-overflow", Text("reject-publish")),
    ]
}

impl Exchange {
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let kind = if self.kind == "fanout" { ExchangeKind::Fanout } else { ExchangeKind::Topic };
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(self.name.into(), kind, options, field_table(&self.arguments)).await
    }

    pub(crate) async fn declare_passively(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(self.name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
    }
}

impl Queue {
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.name.as_str().into(), options, field_table(&self.arguments)).await.map(drop)
    }

    pub(crate) async fn declare_passively(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.name.as_str().into(), options, FieldTable::default()).await.map(drop)
    }
}

fn field_table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Text(text) => AMQPValue::LongString((*text).into()),
            Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}

pub(crate) fn arguments_json(arguments: &Arguments) -> Value {
    let pairs = arguments.iter().map(|(name, value)| {
        let value = match value {
            Text(text) => json!(text),
            Number(number) => json!(number),
        };
        ((*name).to_owned(), value)
    });
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lane_may_lose_what_waits_in_it() {
        let topology = Topology::new(&Lanes::standard(&["45m".parse().unwrap()]));
        let lanes: Vec<_> = topology.queues.iter().filter(|queue| queue.name.contains(".delay.")).collect();
        assert_eq!(lanes.len(), Lanes::STANDARD.len() + 1);
        for queue in lanes {
            let argument =
                |name: &str| queue.arguments.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
            assert_eq!(argument("x-queue-type"), Some(Text("quorum")));
            assert_eq!(argument("x-dead-letter-strategy"), Some(Text("at-least-once")));
            assert_eq!(argument("x-overflow"), Some(Text("reject-publish")));
            assert_eq!(argument("x-expires"), None, "would delete what waits");
            assert_eq!(argument("x-dead-letter-routing-key"), None, "the key must survive");
        }
    }
}
