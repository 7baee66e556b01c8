use std::fmt;

use lapin::Connection;
use serde_json::Value;

use crate::connection::close;
use crate::topology::{Binding, Exchange, Queue, arguments_json};
use crate::{Broker, BrokerError, Management, ManagementError, Topology};

/// Something about the live broker that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `queue overdue.v1.delay.30m`.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Nothing here means that all that was checked is as it must be.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.problem, self.advice)
    }
}

/// Compares the live broker with the topology: existence and arguments by AMQP; and, with the management API,
/// bindings, policies that change what dead-lettering does, the broker's version and its feature flags.
/// Creates and changes nothing.
///
/// # Errors
/// [`BrokerError`] where the broker cannot be asked. A management API that cannot be asked is no error but
/// stands in [`Verification::unchecked`].
pub async fn verify(
    topology: &Topology,
    broker: &Broker,
    management: Option<&Management>,
) -> Result<Verification, BrokerError> {
    let mut verification = Verification::default();
    let connection = broker.connect("verify").await?;
    let outcome = verify_by_amqp(topology, broker, &connection, &mut verification.findings).await;
    close(&connection).await;
    outcome?;
    let Some(management) = management else {
        let advice = "give the management API's URL to have them checked";
        verification.unchecked.push(format!("bindings, policies, broker version and feature flags: {advice}"));
        return Ok(verification);
    };
    match Live::load(management, broker.vhost()).await {
        Ok(live) => {
            live.compare(topology, &mut verification.findings);
            if live.feature_flags.is_none() {
                let advice = "the user may not ask for them; older brokers want the tag `administrator`";
                verification.unchecked.push(format!("feature flags: {advice}"));
            }
        }
        // Asked for, and not done: that is not a pass.
        Err(error) => verification.findings.push(Finding {
            object: "management API".to_owned(),
            problem: format!("bindings, policies and broker version cannot be checked ({error})"),
            advice: "mend that, or leave its URL out to check by AMQP alone".to_owned(),
        }),
    }
    Ok(verification)
}

/// Fails if an exchange or a queue of the topology is missing: the check that a role makes before it starts.
/// Needs no permission to configure anything.
///
/// # Errors
/// [`BrokerError::Topology`] names the first object that is missing.
pub async fn check_presence(topology: &Topology, broker: &Broker) -> Result<(), BrokerError> {
    let connection = broker.connect("check").await?;
    let outcome = async {
        let channel = broker.channel(&connection).await?;
        for exchange in &topology.exchanges {
            exchange.declare_passively(&channel).await.map_err(|error| broker.error(&error))?;
        }
        for queue in &topology.queues {
            queue.declare_passively(&channel).await.map_err(|error| broker.error(&error))?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    close(&connection).await;
    outcome
}

/// AMQP tells whether an object exists (a passive declaration) and whether it has the same arguments (a
/// declaration of what exists creates nothing, but is refused where it differs). A refusal closes the
/// channel, so each object gets a new one where need be.
async fn verify_by_amqp(
    topology: &Topology,
    broker: &Broker,
    connection: &Connection,
    findings: &mut Vec<Finding>,
) -> Result<(), BrokerError> {
    for exchange in &topology.exchanges {
        let channel = broker.channel(connection).await?;
        let outcome = async {
            exchange.declare_passively(&channel).await?;
            exchange.declare(&channel).await
        };
        judge(broker, &exchange.label(), outcome.await, findings)?;
        let _ = channel.close(200, "OK".into()).await;
    }
    for queue in &topology.queues {
        let channel = broker.channel(connection).await?;
        let outcome = async {
            queue.declare_passively(&channel).await?;
            queue.declare(&channel).await
        };
        judge(broker, &queue.label(), outcome.await, findings)?;
        let _ = channel.close(200, "OK".into()).await;
    }
    Ok(())
}

fn judge(
    broker: &Broker,
    object: &str,
    outcome: Result<(), lapin::Error>,
    findings: &mut Vec<Finding>,
) -> Result<(), BrokerError> {
    let Err(error) = outcome else { return Ok(()) };
    let (problem, advice) = match broker.error(&error) {
        BrokerError::Topology(text) if text.starts_with("NOT_FOUND") => {
            ("is missing".to_owned(), "run `overdue topology declare`".to_owned())
        }
        BrokerError::Topology(text) => (
            format!("was declared otherwise ({text})"),
            "let it run empty, delete it and run `overdue topology declare`".to_owned(),
        ),
        BrokerError::AccessRefused(text) => (
            format!("cannot be checked ({text})"),
            "verify with a user that may configure and read overdue.*".to_owned(),
        ),
        other => return Err(other),
    };
    findings.push(Finding { object: object.to_owned(), problem, advice });
    Ok(())
}

/// What the management API says of the broker.
struct Live {
    version: String,
    /// `None` if the user may not see them.
    feature_flags: Option<Value>,
    bindings: Value,
    queues: Value,
}

impl Live {
    async fn load(management: &Management, vhost: &str) -> Result<Self, ManagementError> {
        let overview = management.get(&["overview"]).await?;
        Ok(Self {
            version: overview["rabbitmq_version"].as_str().unwrap_or_default().to_owned(),
            feature_flags: match management.get(&["feature-flags"]).await {
                Ok(flags) => Some(flags),
                Err(ManagementError::AccessRefused) => None,
                Err(error) => return Err(error),
            },
            bindings: management.get(&["bindings", vhost]).await?,
            queues: management.get(&["queues", vhost]).await?,
        })
    }

    fn compare(&self, topology: &Topology, findings: &mut Vec<Finding>) {
        findings.extend(version_finding(&self.version));
        for flag in ["quorum_queue", "stream_queue"] {
            findings.extend(self.flag_finding(flag));
        }
        for binding in &topology.bindings {
            if !self.has_binding(binding) {
                findings.push(Finding {
                    object: format!("binding {} -> {} ({})", binding.source, binding.queue, binding.routing_key),
                    problem: "is missing".to_owned(),
                    advice: "run `overdue topology declare`".to_owned(),
                });
            }
        }
        for row in rows(&self.bindings).filter(|row| is_foreign(topology, row)) {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            findings.push(Finding {
                object: format!("binding {} -> {} ({})", text("source"), text("destination"), text("routing_key")),
                problem: "leads messages into a queue of ours, and is not ours".to_owned(),
                advice: "remove it".to_owned(),
            });
        }
        for queue in &topology.queues {
            findings.extend(self.queue_findings(queue));
        }
    }

    /// At-least-once dead-lettering needs `stream_queue`, which is always on from 4.0 and then may not be listed.
    fn flag_finding(&self, name: &str) -> Option<Finding> {
        let flag = rows(self.feature_flags.as_ref()?).find(|flag| flag["name"] == name)?;
        (flag["state"] == "disabled").then(|| Finding {
            object: format!("feature flag {name}"),
            problem: "is disabled, without it lanes dead-letter at most once and may lose messages".to_owned(),
            advice: format!("run `rabbitmqctl enable_feature_flag {name}`"),
        })
    }

    fn has_binding(&self, binding: &Binding) -> bool {
        rows(&self.bindings).any(|row| {
            row["source"] == binding.source
                && row["destination"] == binding.queue.as_str()
                && row["destination_type"] == "queue"
                && row["routing_key"] == binding.routing_key.as_str()
        })
    }

    /// A policy can set what the arguments leave open; and of a number that both set, the lower one holds.
    fn queue_findings(&self, queue: &Queue) -> Vec<Finding> {
        let Some(live) = rows(&self.queues).find(|row| row["name"] == queue.name.as_str()) else { return Vec::new() };
        let wanted = arguments_json(&queue.arguments);
        let effective = |name: &str| {
            let (argument, policy) =
                (&live["arguments"][format!("x-{name}")], &live["effective_policy_definition"][name]);
            match (argument.as_i64(), policy.as_i64()) {
                (Some(ours), Some(theirs)) if theirs < ours => policy,
                _ if argument.is_null() => policy,
                _ => argument,
            }
        };
        let checked = [
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
        let differing = checked.into_iter().filter(|name| *effective(name) != wanted[format!("x-{name}")]);
        differing
            .map(|name| Finding {
                object: queue.label(),
                problem: format!("{name} is in effect {}, not {}", effective(name), wanted[format!("x-{name}")]),
                advice: match live["policy"].as_str() {
                    Some(policy) => format!("narrow the policy {policy} so that it does not match overdue.*"),
                    None => "delete the queue when it is empty and run `overdue topology declare`".to_owned(),
                },
            })
            .collect()
    }
}

/// A binding into a queue of ours that is not of the topology. Every queue has one from the default exchange.
fn is_foreign(topology: &Topology, row: &Value) -> bool {
    let ours = |queue: &Queue| row["destination"] == queue.name.as_str();
    let known = |binding: &Binding| {
        row["source"] == binding.source
            && row["destination"] == binding.queue.as_str()
            && row["routing_key"] == binding.routing_key.as_str()
    };
    row["destination_type"] == "queue"
        && row["source"] != ""
        && topology.queues.iter().any(ours)
        && !topology.bindings.iter().any(known)
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
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
    Some(Finding {
        object: format!("RabbitMQ {version}"),
        problem: problem.to_owned(),
        advice: "move to RabbitMQ 3.10 or later, but not to 3.13.0 to 3.13.2".to_owned(),
    })
}

impl Exchange {
    fn label(&self) -> String {
        format!("exchange {}", self.name)
    }
}

impl Queue {
    fn label(&self) -> String {
        format!("queue {}", self.name)
    }
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
