//! What is wrong with a live broker, beyond what its topology should be: alarms, rights, consumers, letters that nobody
//! takes.

use std::collections::HashSet;
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use crate::connection::close;
use crate::topology::{EVENTS_EXCHANGE, LANES_EXCHANGE, PARKED_EXCHANGE, PARKED_QUEUE};
use crate::{Broker, BrokerError, Finding, Management, ManagementError, QueueDepth, Topology, Verification, verify};

/// All that is wrong with the broker: [`verify()`], and besides how it stands at this moment. `clock` is the database's
/// time. Changes nothing; a message that is ready in a due queue is not touched.
///
/// # Errors
/// [`BrokerError`] where the broker cannot be asked.
pub async fn diagnose(
    topology: &Topology,
    broker: &Broker,
    management: Option<&Management>,
    clock: Option<OffsetDateTime>,
) -> Result<Verification, BrokerError> {
    let mut verification = verify(topology, broker, management).await?;
    reading(broker, topology, &mut verification.findings).await?;
    // A broker that is low on memory or disk answers nothing to whoever publishes.
    match timeout(PUBLISH_TIMEOUT, writing(broker, &mut verification.findings)).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            verification.unchecked.push("the right to publish: the broker takes nothing from publishers now".to_owned())
        }
    }
    match management {
        None => verification.unchecked.push(
            "alarms, letters that nobody takes, parked messages, the broker's clock: give the management API's URL to have them checked".to_owned(),
        ),
        Some(management) => match state(management, broker.vhost(), clock).await {
            Ok(findings) => verification.findings.extend(findings),
            // `verify` has said so already.
            Err(error) => verification.unchecked.push(format!("alarms, letters, parked messages: {error}")),
        },
    }
    Ok(verification)
}

fn finding(object: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { object: object.into(), problem: problem.into(), advice: advice.into() }
}

/// How long the tries at publishing may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do about a right that is missing.
const RIGHTS_ADVICE: &str = "give the user that right; rabbitmq/README.md lists the rights of each role";

/// A finding if the broker refuses this; what is missing was said already.
fn refusal(object: String, error: BrokerError, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    match error {
        // The exchange is there, so if the channel is just closing, without a reason yet, it is for this one.
        BrokerError::AccessRefused(text) | BrokerError::Protocol(text) => {
            findings.push(finding(object, format!("may not be used by this user ({text})"), RIGHTS_ADVICE));
            Ok(())
        }
        BrokerError::Topology(_) => Ok(()),
        other => Err(other),
    }
}

/// Whether this user may publish where the roles do. A refusal closes the channel, so each try has one of its own.
async fn writing(broker: &Broker, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    let connection = broker.connect("doctor").await?;
    for exchange in [LANES_EXCHANGE, PARKED_EXCHANGE, EVENTS_EXCHANGE] {
        let channel = broker.channel(&connection).await?;
        // In a transaction that is rolled back: refused at once, but never sent.
        let tried = async {
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, passive, FieldTable::default()).await?;
            channel.tx_select().await?;
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            drop(channel.basic_publish(exchange.into(), "doctor.nowhere".into(), options, b"", properties).await?);
            channel.tx_rollback().await
        };
        if let Err(error) = tried.await {
            refusal(format!("exchange {exchange}"), broker.error(&error), findings)?;
        }
        let _ = channel.close(200, "OK".into()).await;
    }
    close(&connection).await;
    Ok(())
}

/// Whether this user may consume what the roles do, and whether somebody does.
async fn reading(broker: &Broker, topology: &Topology, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    let connection = broker.connect("doctor").await?;
    for queue in topology.due_queues().chain([PARKED_QUEUE]) {
        let channel = broker.channel(&connection).await?;
        let tried = async {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            // Here and not from the management API, which learns of consumers some seconds late.
            if queue != PARKED_QUEUE && declared.consumer_count() == 0 {
                let problem = format!("has no consumer; {} messages wait", declared.message_count());
                let advice = "start a worker, and look at the log of those that run";
                findings.push(finding(format!("queue {queue}"), problem, advice));
            }
            // What is there is for others.
            if declared.message_count() == 0
                && let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await?
            {
                let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                channel.basic_nack(message.delivery.delivery_tag, back).await?;
            }
            Ok(())
        };
        if let Err(error) = tried.await {
            refusal(format!("queue {queue}"), broker.error(&error), findings)?;
        }
        let _ = channel.close(200, "OK".into()).await;
    }
    close(&connection).await;
    Ok(())
}

/// How often one looks once more before a letter counts as held for good, and how long one waits in between. RabbitMQ gathers
/// its figures every five seconds.
const HELD_LOOKS: u32 = 3;
const HELD_LOOK_EVERY: Duration = Duration::from_secs(3);

/// By how much clocks may differ. A lane's time is measured by the broker alone, so nothing depends on it; logs of
/// different machines are hard to read otherwise.
const SKEW_MAX: time::Duration = time::Duration::seconds(5);

async fn state(
    management: &Management,
    vhost: &str,
    clock: Option<OffsetDateTime>,
) -> Result<Vec<Finding>, ManagementError> {
    let mut findings = Vec::new();
    for node in management.get(&["nodes"]).await?.as_array().into_iter().flatten() {
        node_findings(node, &mut findings);
    }
    let (queues, held) = held_letters(management, vhost).await?;
    for queue in queues.iter().filter(|queue| queue.name.starts_with("overdue.")) {
        let object = format!("queue {}", queue.name);
        if held.contains(&queue.name) {
            let problem = format!("holds {} expired messages that it cannot hand on", queue.held());
            findings.push(finding(
                &object,
                problem,
                "see what is missing behind it: `overdue topology declare` creates it",
            ));
        }
        if queue.name == PARKED_QUEUE && queue.total > 0 {
            let problem = format!("{} messages wait for a person", queue.total);
            findings.push(finding(&object, problem, "`overdue parked list` tells why"));
        }
    }
    if let (Some(clock), Some(broker)) = (clock, management.clock().await?) {
        let skew = broker - clock;
        if skew.abs() > SKEW_MAX {
            let problem = format!("is {} s off the database's", skew.whole_seconds());
            findings.push(finding("clock of the broker", problem, "set the machines' clocks by NTP"));
        }
    }
    Ok(findings)
}

/// How the queues stand, and which of them hold letters for good. A busy lane has some under way at any moment; it does not
/// have them each time that one looks.
async fn held_letters(
    management: &Management,
    vhost: &str,
) -> Result<(Vec<QueueDepth>, HashSet<String>), ManagementError> {
    let holding = |queues: &[QueueDepth]| -> HashSet<String> {
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

fn node_findings(node: &Value, findings: &mut Vec<Finding>) {
    let object = format!("node {}", node["name"].as_str().unwrap_or("?"));
    if node["running"] == false {
        findings.push(finding(&object, "does not run", "start it: quorum queues need most of their nodes"));
    }
    if node["mem_alarm"] == true {
        let problem = "has its memory alarm on: it blocks publishers";
        findings.push(finding(
            &object,
            problem,
            "give it memory, or find out what fills it; orders wait in the outbox meanwhile",
        ));
    }
    if node["disk_free_alarm"] == true {
        let problem = "has its disk alarm on: it blocks publishers";
        findings.push(finding(&object, problem, "free disk space; orders wait in the outbox meanwhile"));
    }
    if node["partitions"].as_array().is_some_and(|partitions| !partitions.is_empty()) {
        findings.push(finding(
            &object,
            "sees a network partition",
            "mend the network, and restart the nodes that were cut off",
        ));
    }
}

impl Management {
    /// The broker's clock, to the second.
    async fn clock(&self) -> Result<Option<OffsetDateTime>, ManagementError> {
        let date = self.date().await?;
        Ok(date.and_then(|date| OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_is_wrong_with_a_node_is_named() {
        let healthy =
            json!({ "name": "n1", "running": true, "mem_alarm": false, "disk_free_alarm": false, "partitions": [] });
        let problems = |change: Value| {
            let mut node = healthy.clone();
            for (name, value) in change.as_object().unwrap() {
                node[name] = value.clone();
            }
            let mut findings = Vec::new();
            node_findings(&node, &mut findings);
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
