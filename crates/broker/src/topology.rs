//! Every exchange, queue and binding: names, kinds and arguments. No other file knows them.
//!
//! A version stands in the names of the queues, so that a changed argument is a new queue and never a conflict with an
//! old one.

use order::{Hop, Lane, Lanes, Shard, TimeoutKind};
use serde_json::{Value, json};

use crate::routing::{due_queue, foreign_lane_queue, lane_queue, routing_key, webhook_key, webhook_queue};

/// Where foreign publishers' messages enter a lane; the routing key is `<lane>.<kind>`. A message that fits no lane is
/// parked. Their lanes are not ours: a message with a priority overtakes others on RabbitMQ 4, and these come late
/// (<https://www.rabbitmq.com/docs/quorum-queues#priorities>).
pub const DELAY_EXCHANGE: &str = "overdue.delay";
/// Where our own messages enter a lane, with the same keys. A message that fits no lane is returned: a publisher that keeps
/// what was not routed must learn of it, and a message in the parked queue would count as routed.
pub const LANES_EXCHANGE: &str = "overdue.lanes";
/// Where messages go when their lane's time has passed, with the routing key that they had.
pub const DUE_EXCHANGE: &str = "overdue.due";
/// Where messages are set aside for a person.
pub const PARKED_EXCHANGE: &str = "overdue.parked";
/// Where messages go that fit no lane or no due queue.
pub const UNROUTABLE_EXCHANGE: &str = "overdue.unroutable";
/// Where events are announced.
pub const EVENTS_EXCHANGE: &str = "overdue.events";
/// Where messages go that cannot even be stored in the table of parked messages.
pub const UNREADABLE_EXCHANGE: &str = "overdue.unreadable";
/// Where services send commands to arm and to cancel timers, with whatever key.
pub const COMMANDS_EXCHANGE: &str = "overdue.commands";
/// The queue of those commands. Workers consume it.
pub const COMMANDS_QUEUE: &str = "overdue.v1.commands";
/// The queue of messages that were set aside. Workers take them out of it into the table of parked messages.
pub const PARKED_QUEUE: &str = "overdue.v1.parked";
/// The queue of messages that cannot even be stored there. Nothing consumes it.
pub const UNREADABLE_QUEUE: &str = "overdue.v1.unreadable";

/// How often a message may come back to its due queue before the broker parks it: a worker that dies each time it meets
/// the message must not do so for ever. 20 is also the default of RabbitMQ 4.0
/// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
pub const DELIVERY_LIMIT: i64 = 20;

/// The delivery limit of the queues of parked messages. A message that was taken and could not be stored, since the database is
/// away, goes back. RabbitMQ 4 would drop it after 20 times, and has no word for "never" that older versions take too.
pub const PARKED_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// All objects of a deployment with certain lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
    /// What earlier versions bound. Declaring removes it.
    pub(crate) retired: Vec<Binding>,
    /// The queues that workers consume.
    pub(crate) due_queues: Vec<String>,
    /// The queues of endpoints.
    pub(crate) webhook_queues: Vec<String>,
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
        let (queues, bindings, retired, due_queues) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut topology =
            Self { exchanges: exchanges(), queues, bindings, retired, due_queues, webhook_queues: Vec::new() };
        for shard in lanes.shards().iter() {
            for lane in lanes.ours() {
                let queue = lane_queue(lane, shard);
                topology.add_lane(LANES_EXCHANGE, &queue, lane, shard);
                topology.retired.extend(bound_before(&queue, lane, shard));
                if shard == Shard::FIRST {
                    topology.bind(LANES_EXCHANGE, &queue, webhook_key(lane, "*"));
                }
            }
            for lane in lanes.foreign() {
                topology.add_lane(DELAY_EXCHANGE, &foreign_lane_queue(lane, shard), lane, shard);
            }
            for kind in TimeoutKind::ALL {
                let queue = due_queue(kind, shard);
                topology.add_queue(&queue, due_arguments());
                // `*` is one word, so the keys of one shard are never those of another.
                topology.bind(DUE_EXCHANGE, &queue, routing_key('*', kind, shard));
                topology.bind(LANES_EXCHANGE, &queue, routing_key(Hop::Now, kind, shard));
                topology.due_queues.push(queue);
            }
        }
        topology.add_queue(COMMANDS_QUEUE, due_arguments());
        topology.bind(COMMANDS_EXCHANGE, COMMANDS_QUEUE, String::new());
        topology.due_queues.push(COMMANDS_QUEUE.to_owned());
        for queue in [PARKED_QUEUE, UNREADABLE_QUEUE] {
            topology.add_queue(
                queue,
                vec![("x-queue-type", Text("quorum")), ("x-delivery-limit", Number(PARKED_DELIVERY_LIMIT))],
            );
        }
        topology.bind(UNREADABLE_EXCHANGE, UNREADABLE_QUEUE, String::new());
        topology.bind(PARKED_EXCHANGE, PARKED_QUEUE, String::new());
        topology.bind(UNROUTABLE_EXCHANGE, PARKED_QUEUE, String::new());
        topology
    }

    /// The same with the queues of these endpoints, each with the types of events that it wants.
    #[must_use]
    pub fn with_webhooks<'a>(mut self, endpoints: impl Iterator<Item = (&'a str, &'a [String])>) -> Self {
        for (endpoint, types) in endpoints {
            let queue = webhook_queue(endpoint);
            self.add_queue(&queue, webhook_arguments());
            for kind in types {
                self.bind(EVENTS_EXCHANGE, &queue, kind.clone());
            }
            // What failed comes back by a lane.
            self.bind(DUE_EXCHANGE, &queue, webhook_key('*', endpoint));
            self.bind(LANES_EXCHANGE, &queue, webhook_key(Hop::Now, endpoint));
            self.webhook_queues.push(queue);
        }
        self
    }

    fn add_lane(&mut self, source: &'static str, queue: &str, lane: Lane, shard: Shard) {
        self.add_queue(queue, lane_arguments(lane));
        // By each kind that is known: a message of another kind is parked where it enters.
        for kind in TimeoutKind::ALL {
            self.bind(source, queue, routing_key(lane, kind, shard));
        }
    }

    fn add_queue(&mut self, name: &str, arguments: Arguments) {
        self.queues.push(Queue { name: name.to_owned(), arguments });
    }

    fn bind(&mut self, source: &'static str, queue: &str, routing_key: String) {
        self.bindings.push(Binding { source, queue: queue.to_owned(), routing_key });
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
        exchange(UNREADABLE_EXCHANGE, "fanout", vec![]),
        exchange(COMMANDS_EXCHANGE, "fanout", rescued()),
        exchange(DELAY_EXCHANGE, "topic", rescued()),
        exchange(LANES_EXCHANGE, "topic", vec![]),
        exchange(DUE_EXCHANGE, "topic", rescued()),
        exchange(EVENTS_EXCHANGE, "topic", vec![]),
    ]
}

/// Earlier versions bound a lane of ours to both exchanges, and at first for every kind.
fn bound_before(queue: &str, lane: Lane, shard: Shard) -> Vec<Binding> {
    let binding = |source, routing_key| Binding { source, queue: queue.to_owned(), routing_key };
    let of_each_kind = TimeoutKind::ALL.map(|kind| binding(DELAY_EXCHANGE, routing_key(lane, kind, shard)));
    let of_every_kind = ["*", "#"].into_iter().flat_map(|word| {
        [DELAY_EXCHANGE, LANES_EXCHANGE].map(|source| binding(source, routing_key(lane, word, shard)))
    });
    of_each_kind.into_iter().chain(of_every_kind).collect()
}

/// At-least-once dead-lettering needs all four: a quorum queue, an exchange to go to, the strategy, and
/// `reject-publish`. With the default overflow the broker silently falls back to at-most-once
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

/// What is sent to an endpoint waits for it, however long it is away. Each time that it is given up for a while, some events go
/// back to the queue; that is no fault of theirs.
fn webhook_arguments() -> Arguments {
    vec![
        ("x-queue-type", Text("quorum")),
        ("x-delivery-limit", Number(PARKED_DELIVERY_LIMIT)),
        ("x-overflow", Text("reject-publish")),
    ]
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
    use order::Shards;

    use super::*;

    #[test]
    fn no_lane_may_lose_what_waits_in_it() {
        let topology = Topology::new(&Lanes::standard(&["45m".parse().unwrap()]));
        let is_lane = |queue: &&Queue| queue.name.contains(".delay.") || queue.name.contains(".foreign.");
        let lanes: Vec<_> = topology.queues.iter().filter(is_lane).collect();
        assert_eq!(lanes.len(), Lanes::LADDER.len() + 1 + Lanes::FOREIGN.len() + 1);
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

    #[test]
    fn every_kind_enters_every_lane_and_has_a_due_queue() {
        let topology = Topology::new(&Lanes::standard(&[]));
        let bound = |source: &str, key: &str| {
            topology.bindings.iter().any(|binding| binding.source == source && binding.routing_key == key)
        };
        for kind in TimeoutKind::ALL {
            for (source, lanes) in [(DELAY_EXCHANGE, &Lanes::FOREIGN[..]), (LANES_EXCHANGE, &Lanes::LADDER)] {
                for lane in lanes {
                    assert!(bound(source, &format!("{lane}.{kind}")), "{source} {lane}.{kind}");
                }
            }
            assert!(bound(DUE_EXCHANGE, &format!("*.{kind}")) && bound(LANES_EXCHANGE, &format!("now.{kind}")));
        }
        let any = |binding: &&Binding| binding.routing_key.ends_with('*');
        assert!(
            topology.bindings.iter().filter(any).all(|it| it.routing_key.ends_with(".webhook.*")),
            "no other kind enters"
        );
    }

    #[test]
    fn no_queue_has_messages_of_ours_and_of_foreign_publishers_but_where_they_are_taken_at_once() {
        let topology = Topology::new(&Lanes::standard(&[]).sharded(Shards::new(2).unwrap()));
        let fed_by = |source: &str| -> Vec<_> {
            topology.bindings.iter().filter(|binding| binding.source == source).map(|binding| &binding.queue).collect()
        };
        let (ours, foreign) = (fed_by(LANES_EXCHANGE), fed_by(DELAY_EXCHANGE));
        assert!(!foreign.is_empty() && foreign.iter().all(|queue| !ours.contains(queue)));
        assert!(topology.retired.iter().all(|binding| !topology.bindings.contains(binding)));
    }
}
