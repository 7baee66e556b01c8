//! Routing keys and the names of queues, which are made of the same words: lane, kind of timeout, shard.

use std::fmt::Display;

use order::{Lane, Shard, TimeoutKind, UnknownKind};

/// How the names of due queues begin.
const DUE_QUEUES: &str = "overdue.v1.due.";

/// How the names of lanes of our own messages begin.
const LANE_QUEUES: &str = "overdue.v1.delay.";

/// The queue in which our own messages of this shard wait that go by this lane.
pub(crate) fn lane_queue(lane: Lane, shard: Shard) -> String {
    format!("{LANE_QUEUES}{lane}{shard}")
}

/// Whether a queue is one of those.
pub(crate) fn is_lane_queue(name: &str) -> bool {
    name.starts_with(LANE_QUEUES)
}

/// The same for messages of foreign publishers.
pub(crate) fn foreign_lane_queue(lane: Lane, shard: Shard) -> String {
    format!("overdue.v1.foreign.{lane}{shard}")
}

/// The queue of this shard's messages of this kind that are due. Workers consume it.
#[must_use]
pub fn due_queue(kind: TimeoutKind, shard: Shard) -> String {
    format!("{DUE_QUEUES}{kind}{shard}")
}

/// Whether a queue is one of those.
pub(crate) fn is_due_queue(name: &str) -> bool {
    name.starts_with(DUE_QUEUES)
}

/// The key that leads by way of `lane` (a lane, an [`order::Hop`], or any lane for `*`) to the due queue of this kind and shard.
pub(crate) fn routing_key(lane: impl Display, kind: impl Display, shard: Shard) -> String {
    format!("{lane}.{kind}{shard}")
}

/// How the names of endpoints' queues begin.
const WEBHOOK_QUEUES: &str = "overdue.v1.webhook.";

/// In the place of a kind of timeout: an event comes back to its endpoint.
const WEBHOOK: &str = "webhook";

/// The queue of the events that an endpoint is to be sent.
pub(crate) fn webhook_queue(endpoint: &str) -> String {
    format!("{WEBHOOK_QUEUES}{endpoint}")
}

/// The endpoint whose queue this is.
pub(crate) fn endpoint_of_queue(name: &str) -> Option<&str> {
    name.strip_prefix(WEBHOOK_QUEUES)
}

/// The key that leads by way of `lane` to an endpoint (or to any, for `*`).
pub(crate) fn webhook_key(lane: impl Display, endpoint: &str) -> String {
    format!("{lane}.{WEBHOOK}.{endpoint}")
}

/// The endpoint that a routing key leads to.
pub(crate) fn endpoint_of_key(routing_key: &str) -> Option<&str> {
    let (_, rest) = routing_key.split_once('.')?;
    rest.strip_prefix(WEBHOOK)?.strip_prefix('.').filter(|endpoint| !endpoint.is_empty())
}

/// The kind of timeout and the shard that a routing key names.
///
/// # Errors
/// [`UnknownKind`] where the second word is no kind of this version, or is missing.
pub(crate) fn kind_and_shard(routing_key: &str) -> Result<(TimeoutKind, Shard), UnknownKind> {
    let mut words = routing_key.split('.').skip(1);
    let kind = words.next().unwrap_or_default().parse()?;
    Ok((kind, words.next().map_or(Shard::FIRST, Shard::named)))
}

#[cfg(test)]
mod tests {
    use order::Shards;

    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let lane: Lane = "30m".parse().unwrap();
        for shard in Shards::new(3).unwrap().iter() {
            for kind in TimeoutKind::ALL {
                assert_eq!(kind_and_shard(&routing_key(lane, kind, shard)), Ok((kind, shard)));
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_taken_for_no_other() {
        for (key, word) in [("5s.PAYMENT", "PAYMENT"), ("30m.receipt.1", "receipt"), ("842317", ""), ("", "")] {
            assert_eq!(kind_and_shard(key), Err(UnknownKind(word.to_owned())));
        }
    }
}
