//! The live broker as the management API shows it, compared with the topology.

use serde_json::Value;

use crate::finding::Finding;
use crate::management::{BindingState, FeatureFlag};
use crate::topology::{Binding, Queue, arguments_json};
use crate::{Management, ManagementError, QueueState, Topology};

/// What the management API says of the broker.
pub(crate) struct Live {
    version: String,
    /// `None` if the user may not see them.
    pub(crate) feature_flags: Option<Vec<FeatureFlag>>,
    bindings: Vec<BindingState>,
    queues: Vec<QueueState>,
}

/// What arguments and policies may set, and what is compared.
const CHECKED_ARGUMENTS: [&str; 9] = [
    "message-ttl",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "overflow",
    "delivery-limit",
    "expires",
    "max-length",
    "max-length-bytes",
];

impl Live {
    pub(crate) async fn load(management: &Management, vhost: &str) -> Result<Self, ManagementError> {
        Ok(Self {
            version: management.overview().await?.rabbitmq_version,
            feature_flags: management.feature_flags().await?,
            bindings: management.bindings(vhost).await?,
            queues: management.queues(vhost).await?,
        })
    }

    pub(crate) fn compare(&self, topology: &Topology) -> Vec<Finding> {
        let mut findings: Vec<Finding> = version_finding(&self.version).into_iter().collect();
        for flag in ["quorum_queue", "stream_queue"] {
            findings.extend(self.flag_finding(flag));
        }
        for binding in topology.bindings.iter().filter(|binding| !self.has_binding(binding)) {
            let object = binding_label(binding.source, &binding.queue, &binding.routing_key);
            findings.push(Finding::new(object, "is missing", "run `overdue topology declare`"));
        }
        for binding in self.bindings.iter().filter(|binding| is_foreign(topology, binding)) {
            let object = binding_label(&binding.source, &binding.destination, &binding.routing_key);
            let problem = "leads messages into a queue of ours, and is not of this topology";
            findings.push(Finding::new(object, problem, "remove it"));
        }
        findings.extend(topology.queues.iter().flat_map(|queue| self.queue_findings(queue)));
        findings
    }

    /// At-least-once dead-lettering needs `stream_queue`, which is always on from 4.0 and then may not be listed.
    fn flag_finding(&self, name: &str) -> Option<Finding> {
        let flag = self.feature_flags.as_ref()?.iter().find(|flag| flag.name == name)?;
        (flag.state == "disabled").then(|| {
            Finding::new(
                format!("feature flag {name}"),
                "is disabled, without it lanes dead-letter at most once and may lose messages",
                format!("run `rabbitmqctl enable_feature_flag {name}`"),
            )
        })
    }

    fn has_binding(&self, wanted: &Binding) -> bool {
        self.bindings.iter().any(|binding| binding.destination_type == "queue" && is_same(wanted, binding))
    }

    /// A policy can set what the arguments leave open; and of a number that both set, the lower one holds.
    fn queue_findings(&self, queue: &Queue) -> Vec<Finding> {
        let Some(live) = self.queues.iter().find(|live| live.name == queue.name) else { return Vec::new() };
        let wanted = arguments_json(&queue.arguments);
        let effective = |name: &str| -> &Value {
            let argument = live.arguments.get(&format!("x-{name}")).unwrap_or(&Value::Null);
            let policy = &live.effective_policy_definition[name];
            match (argument.as_i64(), policy.as_i64()) {
                (Some(ours), Some(theirs)) if theirs < ours => policy,
                _ if argument.is_null() => policy,
                _ => argument,
            }
        };
        let differing = CHECKED_ARGUMENTS.iter().filter(|name| *effective(name) != wanted[format!("x-{name}")]);
        let finding = |name: &&str| {
            let problem = format!("{name} is in effect {}, not {}", effective(name), wanted[format!("x-{name}")]);
            let advice = match &live.policy {
                Some(policy) => format!("narrow the policy {policy} so that it does not match overdue.*"),
                None => "delete the queue when it is empty and run `overdue topology declare`".to_owned(),
            };
            Finding::new(format!("queue {}", queue.name), problem, advice)
        };
        differing.map(finding).collect()
    }
}

/// A binding into a queue of ours that is not of the topology. Every queue has one from the default exchange.
fn is_foreign(topology: &Topology, binding: &BindingState) -> bool {
    binding.destination_type == "queue"
        && !binding.source.is_empty()
        && topology.queues.iter().any(|queue| queue.name == binding.destination)
        && !topology.bindings.iter().any(|known| is_same(known, binding))
}

fn is_same(wanted: &Binding, live: &BindingState) -> bool {
    live.source == wanted.source && live.destination == wanted.queue && live.routing_key == wanted.routing_key
}

fn binding_label(source: &str, queue: &str, routing_key: &str) -> String {
    format!("binding {source} -> {queue} ({routing_key})")
}

/// What is known of this version of RabbitMQ; unreadable versions (a build of one's own) pass.
fn version_finding(version: &str) -> Option<Finding> {
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0));
    let problem = match (major, minor, patch) {
        (..3, _, _) | (3, ..10, _) => "has no at-least-once dead-lettering, so lanes may lose messages",
        (3, 13, ..=2) => "drops messages that are dead-lettered twice as if they went in a circle",
        _ => return None,
    };
    let advice = "move to RabbitMQ 3.10 or later, but not to 3.13.0 to 3.13.2";
    Some(Finding::new(format!("RabbitMQ {version}"), problem, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_hazards_are_named() {
        for bad in ["2.8.7", "3.8.9", "3.9.29", "3.13.0", "3.13.2"] {
            assert!(version_finding(bad).is_some(), "{bad}");
        }
        for good in ["3.10.8", "3.10.8+dfsg", "3.12.14", "3.13.3", "4.0.5", "4.1.0-rc.1", "unknown"] {
            assert_eq!(version_finding(good), None, "{good}");
        }
    }
}
