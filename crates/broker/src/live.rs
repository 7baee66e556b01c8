//! The live broker as the management API shows it, compared with the topology.

use serde_json::Value;

use crate::finding::Finding;
use crate::management::{BindingState, ConsumerState, ExchangeState, FeatureFlag};
use crate::session::CONSUMER_TAG;
use crate::topology::{Binding, EVENTS_EXCHANGE, Queue, arguments_json};
use crate::{Management, ManagementError, QueueState, Topology};

/// What the management API says of the broker.
pub(crate) struct Live {
    version: String,
    /// `None` if the user may not see them.
    pub(crate) feature_flags: Option<Vec<FeatureFlag>>,
    bindings: Vec<BindingState>,
    queues: Vec<QueueState>,
    exchanges: Vec<ExchangeState>,
    consumers: Vec<ConsumerState>,
}

/// What arguments and policies may set, what is compared, and what goes wrong where it is otherwise.
const CHECKED_ARGUMENTS: [(&str, &str); 9] = [
    ("message-ttl", "messages leave the queue at another time than they should"),
    ("dead-letter-exchange", "messages go elsewhere, or are lost, when their time is over"),
    ("dead-letter-routing-key", "messages do not find their due queue"),
    ("dead-letter-strategy", "messages may be lost when their time is over"),
    ("overflow", "messages may be lost when their time is over, and a full queue pushes waiting ones out"),
    ("delivery-limit", "messages are set aside too early, or one that breaks workers never is"),
    ("expires", "the queue is deleted with all that waits in it"),
    ("max-length", "a full queue takes no more, or pushes waiting messages out"),
    ("max-length-bytes", "a full queue takes no more, or pushes waiting messages out"),
];

const DECLARE: &str = "run `overdue topology declare`";

/// How long a worker may have messages in hand, with time to spare: it holds them for a quarter of an hour while a server is
/// away.
const CONSUMER_TIMEOUT_MIN_MS: i64 = 20 * 60 * 1000;

impl Live {
    pub(crate) async fn load(management: &Management, vhost: &str) -> Result<Self, ManagementError> {
        Ok(Self {
            version: management.overview().await?.rabbitmq_version,
            feature_flags: management.feature_flags().await?,
            bindings: management.bindings(vhost).await?,
            queues: management.queues(vhost).await?,
            exchanges: management.exchanges(vhost).await?,
            consumers: management.consumers(vhost).await?,
        })
    }

    pub(crate) fn compare(&self, topology: &Topology) -> Vec<Finding> {
        let mut findings: Vec<Finding> = version_finding(&self.version).into_iter().collect();
        for flag in ["quorum_queue", "stream_queue"] {
            findings.extend(self.flag_finding(flag));
        }
        for binding in topology.bindings.iter().filter(|binding| !self.has_binding(binding)) {
            let object = binding_label(binding.source, &binding.queue, &binding.routing_key);
            findings.push(Finding::new(object, "is missing", DECLARE));
        }
        for binding in &self.bindings {
            let (problem, advice) = if topology.retired.iter().any(|known| is_same(known, binding)) {
                ("is of an earlier version, and leads messages into a lane where they do not belong", DECLARE)
            } else {
                let Some(problem) = foreign(topology, binding) else { continue };
                (problem, "remove it")
            };
            let object = binding_label(&binding.source, &binding.destination, &binding.routing_key);
            findings.push(Finding::new(object, problem, advice));
        }
        findings.extend(self.exchanges.iter().filter_map(exchange_finding));
        findings.extend(self.consumers.iter().filter_map(|consumer| consumer_finding(topology, consumer)));
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
        self.bindings.iter().any(|binding| is_same(wanted, binding))
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
                // Of this one, unlike the others, a quorum queue believes the policy.
                _ if name == "overflow" && !policy.is_null() => policy,
                _ => argument,
            }
        };
        let object = format!("queue {}", queue.name);
        let mut findings = Vec::new();
        for (name, harm) in CHECKED_ARGUMENTS {
            let (is, wanted) = (effective(name), &wanted[format!("x-{name}")]);
            if is != wanted {
                let by_policy = !live.effective_policy_definition[name].is_null();
                let problem = format!("{name} is in effect {is}, not {wanted}: {harm}");
                findings.push(Finding::new(&object, problem, advice(live, by_policy)));
            }
        }
        let consumer_timeout = effective("consumer-timeout");
        if consumer_timeout.as_i64().is_some_and(|ms| ms < CONSUMER_TIMEOUT_MIN_MS) {
            let problem = format!(
                "consumer-timeout is in effect {consumer_timeout} ms: a worker may hold messages for longer while a server is away, and they are taken from it and set aside"
            );
            findings.push(Finding::new(&object, problem, advice(live, true)));
        }
        findings
    }
}

fn advice(queue: &QueueState, by_policy: bool) -> String {
    let policies = [("policy", &queue.policy), ("operator policy", &queue.operator_policy)];
    let named: Vec<String> =
        policies.iter().filter_map(|(kind, name)| Some(format!("the {kind} {}", name.as_ref()?))).collect();
    if by_policy && !named.is_empty() {
        return format!("narrow {} so that it does not match overdue.*", named.join(" and "));
    }
    "delete the queue when it is empty and run `overdue topology declare`".to_owned()
}

/// An alternate exchange would count as a way for messages that fit no lane.
fn exchange_finding(exchange: &ExchangeState) -> Option<Finding> {
    let policy = exchange.policy.as_ref().filter(|_| exchange.name.starts_with("overdue."))?;
    let problem = "has a policy: if it sets an alternate exchange, messages that fit no lane count as sent";
    let advice = format!("narrow the policy {policy} so that it does not match overdue.*, or apply it to queues only");
    Some(Finding::new(format!("exchange {}", exchange.name), problem, advice))
}

/// Somebody who takes messages away.
fn consumer_finding(topology: &Topology, consumer: &ConsumerState) -> Option<Finding> {
    let queue = &consumer.queue.name;
    if !topology.queues.iter().any(|ours| ours.name == *queue) {
        return None;
    }
    if consumer.consumer_tag.starts_with(CONSUMER_TAG) {
        return None;
    }
    let who = ["user", "connection_name"].map(|field| consumer.channel_details[field].as_str().unwrap_or("?"));
    let problem = format!(
        "is consumed by somebody else (user {}, connection {}, tag {}), who takes messages away",
        who[0], who[1], consumer.consumer_tag
    );
    Some(Finding::new(
        format!("queue {queue}"),
        problem,
        "end that consumer, and give its user no right to read overdue.*",
    ))
}

/// What is wrong with a binding that is not of the topology: it leads to a place of ours, or away from one. Every queue has one
/// from the default exchange, and events are for everybody. Queues of other lanes, or of another version, are ours, too.
fn foreign(topology: &Topology, binding: &BindingState) -> Option<&'static str> {
    let is_exchange_of_ours = |name: &str| topology.exchanges.iter().any(|exchange| exchange.name == name);
    let leads_away = is_exchange_of_ours(&binding.source) && binding.source != EVENTS_EXCHANGE;
    let leads_to_us = match binding.destination_type.as_str() {
        "queue" => topology.queues.iter().any(|queue| queue.name == binding.destination),
        _ => is_exchange_of_ours(&binding.destination),
    };
    let is_of_other_lanes = binding.destination_type == "queue" && binding.destination.starts_with("overdue.v");
    if binding.source.is_empty() || topology.bindings.iter().any(|known| is_same(known, binding)) {
        return None;
    }
    match (leads_away, leads_to_us) {
        (true, true) => Some("leads messages of ours past their lane, or round and round, and is not of this topology"),
        (false, true) if binding.destination_type == "queue" => {
            Some("leads messages into a queue of ours, and is not of this topology")
        }
        (true, false) if !is_of_other_lanes => Some(
            "copies messages of ours to somebody else, and is not of this topology: when that place is full, no lane can hand on",
        ),
        _ => None,
    }
}

fn is_same(wanted: &Binding, live: &BindingState) -> bool {
    live.destination_type == "queue"
        && live.source == wanted.source
        && live.destination == wanted.queue
        && live.routing_key == wanted.routing_key
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

    /// RabbitMQ takes such a policy from 3.12 on.
    #[test]
    fn a_short_consumer_timeout_is_named_with_its_policy() {
        let topology = Topology::new(&order::Lanes::standard(&[]));
        let queue = topology.queues.iter().find(|queue| queue.name == "overdue.v1.due.payment").unwrap();
        let findings = |timeout_ms: i64| {
            let state = serde_json::json!({
                "name": queue.name, "arguments": arguments_json(&queue.arguments), "policy": "hasty",
                "effective_policy_definition": { "consumer-timeout": timeout_ms },
            });
            let queues = vec![serde_json::from_value(state).unwrap()];
            let (version, bindings, exchanges, consumers) = ("4.0.5".to_owned(), Vec::new(), Vec::new(), Vec::new());
            let live = Live { version, feature_flags: None, bindings, queues, exchanges, consumers };
            live.queue_findings(queue)
        };
        assert_eq!(findings(CONSUMER_TIMEOUT_MIN_MS), []);
        let found = findings(10_000);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].problem.contains("consumer-timeout is in effect 10000 ms"), "{found:?}");
        assert!(found[0].advice.contains("narrow the policy hasty"), "{found:?}");
    }

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
