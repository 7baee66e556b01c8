//! Claimed timeouts, grouped into messages.

use std::collections::BTreeMap;
use std::time::Duration;

use broker::{Outgoing, wire};
use order::{Lanes, Shard, TimeoutKind, coalesce};
use time::OffsetDateTime;
use trace::TraceParent;

use crate::claim::ClaimedTimeout;
use crate::trail::Told;

/// Rows of the outbox, and the messages that carry them. They are deleted when all are confirmed.
pub(crate) struct Load {
    pub(crate) rows: Vec<i64>,
    pub(crate) messages: Vec<Outgoing>,
    /// What is written down of it once it was sent.
    pub(crate) told: Vec<Told>,
}

/// Timeouts of one kind and shard share a message if they are due within the window of each other.
pub(crate) fn loads(
    claimed: Vec<ClaimedTimeout>,
    lanes: &Lanes,
    window: Duration,
    now: OffsetDateTime,
    is_told: bool,
) -> Vec<Load> {
    let mut routes: BTreeMap<(TimeoutKind, Shard), Vec<ClaimedTimeout>> = BTreeMap::new();
    for timeout in claimed {
        routes.entry((timeout.kind, lanes.shards().of(timeout.id.as_str()))).or_default().push(timeout);
    }
    let mut loads = Vec::new();
    for ((kind, shard), timeouts) in routes {
        for group in coalesce(timeouts, |timeout| timeout.due, now, window, wire::ORDERS_MAX) {
            let message = message(&group, kind, shard, lanes, now);
            let of = |timeout: &ClaimedTimeout| (timeout.id.to_string(), told(timeout, &message));
            let told = if is_told { group.iter().map(of).collect() } else { Vec::new() };
            loads.push(Load {
                rows: group.into_iter().map(|timeout| timeout.row).collect(),
                messages: vec![message],
                told,
            });
        }
    }
    loads
}

/// One message for the group. If it is held until its orders are due, each at its own moment, it comes before the first is.
fn message(group: &[ClaimedTimeout], kind: TimeoutKind, shard: Shard, lanes: &Lanes, now: OffsetDateTime) -> Outgoing {
    let remaining = |timeout: Option<&ClaimedTimeout>| timeout.map_or(Duration::ZERO, |it| it.due.remaining(now));
    let orders: Vec<_> = group.iter().map(|timeout| (timeout.id.clone(), timeout.due)).collect();
    let parents: Vec<Option<TraceParent>> = group.iter().map(|timeout| timeout.traceparent.clone()).collect();
    let span = tracing::info_span!(target: trace::TARGET, "send timeout", orders = orders.len());
    trace::follow(&span, &parents);
    let hop = match kind.is_held() {
        true => lanes.choose(remaining(group.first())),
        false => lanes.at_least(remaining(group.last())),
    };
    let message = Outgoing::timeout(kind, &orders, hop, shard).until(now + hop.wait());
    message.traced(trace::onward(&span, &parents).as_ref())
}

fn told(timeout: &ClaimedTimeout, message: &Outgoing) -> String {
    let lane = message.routing_key().split('.').next().unwrap_or_default();
    let way = if lane == "now" { "straight to the workers".to_owned() } else { format!("by the lane {lane}") };
    format!("{way}; due at {}", timeout.due)
}

#[cfg(test)]
mod tests {
    use order::{Deadline, Shards, TimeoutId};

    use super::*;

    fn now() -> OffsetDateTime {
        "2026-11-22T08:00:00Z".parse::<Deadline>().unwrap().instant()
    }

    fn timeout(row: i64, kind: TimeoutKind, due_in_ms: u64) -> ClaimedTimeout {
        let name = if kind == TimeoutKind::Timer { format!("receipt:{row}") } else { format!("order-{row}") };
        let id = TimeoutId::parse(kind, &name).unwrap();
        let due = Deadline::at(now() + Duration::from_millis(due_in_ms));
        ClaimedTimeout { row, kind, id, due, traceparent: None }
    }

    /// Rows and key of each message, in the order of the keys.
    fn grouped(claimed: Vec<ClaimedTimeout>, lanes: &Lanes) -> Vec<(Vec<i64>, String)> {
        let loads = loads(claimed, lanes, Duration::from_millis(10), now(), true);
        assert!(loads.iter().all(|load| load.told.len() == load.rows.len()));
        loads.into_iter().map(|load| (load.rows, load.messages[0].routing_key().to_owned())).collect()
    }

    #[test]
    fn what_is_due_together_shares_a_message_and_kinds_do_not() {
        let claimed = vec![
            timeout(1, TimeoutKind::Payment, 25_000),
            timeout(2, TimeoutKind::Payment, 25_010),
            timeout(3, TimeoutKind::Gateway, 25_000),
            timeout(4, TimeoutKind::Payment, 40_000),
            timeout(5, TimeoutKind::Payment, 9_000),
        ];
        // What is held may come early and goes by the shorter lane; a question to a gateway does not come early.
        let expected =
            [(vec![5], "now.payment"), (vec![1, 2], "20s.payment"), (vec![4], "40s.payment"), (vec![3], "30s.gateway")];
        let lanes = Lanes::standard(&[]);
        assert_eq!(grouped(claimed, &lanes), expected.map(|(rows, key)| (rows, key.to_owned())));
    }

    #[test]
    fn orders_of_two_shards_never_share_a_message() {
        // `order-0` and `order-1` are of the shards 1 and 3 of four; see the crate `order`.
        let claimed = vec![timeout(0, TimeoutKind::Payment, 5_000), timeout(1, TimeoutKind::Payment, 5_000)];
        let lanes = Lanes::standard(&[]).sharded(Shards::new(4).unwrap());
        let expected = [(vec![0], "now.payment.1"), (vec![1], "now.payment.3")];
        assert_eq!(grouped(claimed, &lanes), expected.map(|(rows, key)| (rows, key.to_owned())));
    }
}
