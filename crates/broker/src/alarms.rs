//! How the broker stands at this moment, by its management API: alarms, dead letters that nothing takes, clock.

use std::collections::HashSet;
use std::time::Duration;

use time::OffsetDateTime;

use crate::finding::Finding;
use crate::management::Node;
use crate::{Management, ManagementError, QueueState};

/// How often the queues are looked at again before a dead letter counts as held for good, and the time between two looks.
/// RabbitMQ gathers its figures every five seconds.
const HELD_LOOKS: u32 = 3;
const HELD_LOOK_EVERY: Duration = Duration::from_secs(3);

/// How much clocks may differ. A lane's time is measured by the broker alone, so nothing depends on it; but logs of
/// different machines are hard to read then.
const SKEW_MAX: time::Duration = time::Duration::seconds(5);

/// The faults. `clock` is the database's time.
pub(crate) async fn alarms(
    management: &Management,
    vhost: &str,
    clock: Option<OffsetDateTime>,
) -> Result<Vec<Finding>, ManagementError> {
    let mut findings: Vec<Finding> = management.nodes().await?.iter().flat_map(node_findings).collect();
    let (queues, held) = held_letters(management, vhost).await?;
    for queue in queues.iter().filter(|queue| queue.name.starts_with("overdue.")) {
        let object = format!("queue {}", queue.name);
        if held.contains(&queue.name) {
            let problem = format!("holds {} expired messages that it cannot hand on", queue.held());
            let advice = "see what is missing behind it: `overdue topology declare` creates it";
            findings.push(Finding::new(&object, problem, advice));
        }
    }
    if let (Some(clock), Some(broker)) = (clock, management.clock().await?) {
        let skew = broker - clock;
        if skew.abs() > SKEW_MAX {
            let problem = format!("is {} s off the database's", skew.whole_seconds());
            findings.push(Finding::new("clock of the broker", problem, "set the machines' clocks by NTP"));
        }
    }
    Ok(findings)
}

/// The queues, and the names of those that hold dead letters for good. A busy lane has some under way at any moment, but
/// not at each look.
async fn held_letters(
    management: &Management,
    vhost: &str,
) -> Result<(Vec<QueueState>, HashSet<String>), ManagementError> {
    let holding = |queues: &[QueueState]| -> HashSet<String> {
        queues.iter().filter(|queue| queue.held() > 0).map(|queue| queue.name.clone()).collect()
    };
    let mut queues = management.queues(vhost).await?;
    let mut held = holding(&queues);
    for _ in 0..HELD_LOOKS {
        if held.is_empty() {
            break;
        }
        tokio::time::sleep(HELD_LOOK_EVERY).await;
        queues = management.queues(vhost).await?;
        let now = holding(&queues);
        held.retain(|queue| now.contains(queue));
    }
    Ok((queues, held))
}

fn node_findings(node: &Node) -> Vec<Finding> {
    let checks = [
        (node.running == Some(false), "does not run", "start it: quorum queues need most of their nodes"),
        (
            node.mem_alarm,
            "has its memory alarm on: it blocks publishers",
            "give it memory, or find out what fills it; orders wait in the outbox meanwhile",
        ),
        (
            node.disk_free_alarm,
            "has its disk alarm on: it blocks publishers",
            "free disk space; orders wait in the outbox meanwhile",
        ),
        (
            !node.partitions.is_empty(),
            "sees a network partition",
            "mend the network, and restart the nodes that were cut off",
        ),
    ];
    let object = format!("node {}", node.name);
    let found = checks.into_iter().filter(|(is_so, ..)| *is_so);
    found.map(|(_, problem, advice)| Finding::new(&object, problem, advice)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_fault_of_a_node_is_named() {
        let healthy =
            json!({ "name": "n1", "running": true, "mem_alarm": false, "disk_free_alarm": false, "partitions": [] });
        let problems = |change: Value| {
            let mut node = healthy.clone();
            for (name, value) in change.as_object().unwrap() {
                node[name] = value.clone();
            }
            let findings = node_findings(&serde_json::from_value(node).unwrap());
            findings.into_iter().map(|finding| finding.problem).collect::<Vec<_>>()
        };
        assert!(problems(json!({})).is_empty());
        for (change, problem) in [
            (json!({ "running": false }), "does not run"),
            (json!({ "mem_alarm": true }), "memory alarm"),
            (json!({ "disk_free_alarm": true }), "disk alarm"),
            (json!({ "partitions": ["n2"] }), "partition"),
        ] {
            let found = problems(change);
            assert!(found.len() == 1 && found[0].contains(problem), "{problem}: {found:?}");
        }
    }
}
