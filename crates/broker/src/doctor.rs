//! All that is wrong with a live broker: its topology, the rights of this user, and its state at this moment.

use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::alarms::alarms;
use crate::connection::close;
use crate::finding::{Finding, Verification};
use crate::ready::try_publishing;
use crate::routing::endpoint_of_queue;
use crate::topology::{EVENTS_EXCHANGE, LANES_EXCHANGE, PARKED_EXCHANGE, PARKED_QUEUE, UNREADABLE_QUEUE};
use crate::verify::verify;
use crate::{Broker, BrokerError, Management, Topology};

/// How long the tries at publishing may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do about a right that is missing.
const RIGHTS_ADVICE: &str = "give the user that right; rabbitmq/README.md lists the rights of each role";

/// All that is wrong with the broker. `clock` is the database's time. Changes nothing; a message that is ready in a due
/// queue is not touched.
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
    try_reading(broker, topology, &mut verification.findings).await?;
    // A broker that is low on memory or disk answers publishers nothing.
    match timeout(PUBLISH_TIMEOUT, try_writing(broker, &mut verification.findings)).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            verification.unchecked.push("the right to publish: the broker takes nothing from publishers now".to_owned())
        }
    }
    match management {
        None => verification.unchecked.push(
            "alarms, dead letters that nothing takes, the broker's clock: give the management API's URL to have them checked".to_owned(),
        ),
        Some(management) => match alarms(management, broker.vhost(), clock).await {
            Ok(findings) => verification.findings.extend(findings),
            // `verify` has said so already.
            Err(error) => verification.unchecked.push(format!("alarms, dead letters: {error}")),
        },
    }
    Ok(verification)
}

/// Whether this user may publish where the roles do. A refusal closes the channel, so each try has one of its own.
async fn try_writing(broker: &Broker, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    let connection = broker.connect("doctor").await?;
    for exchange in [LANES_EXCHANGE, PARKED_EXCHANGE, EVENTS_EXCHANGE] {
        if let Err(error) = try_publishing(broker, &connection, exchange).await {
            note_refusal(format!("exchange {exchange}"), error, findings)?;
        }
    }
    close(&connection).await;
    Ok(())
}

/// Whether this user may consume what the roles do, and whether the due queues have consumers.
async fn try_reading(broker: &Broker, topology: &Topology, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    let connection = broker.connect("doctor").await?;
    let ours = topology.due_queues.iter().chain(&topology.webhook_queues).map(String::as_str);
    for queue in ours.chain([PARKED_QUEUE, UNREADABLE_QUEUE]) {
        let channel = broker.channel(&connection).await?;
        let attempt = async {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            let (messages, consumers) = (declared.message_count(), declared.consumer_count());
            findings.extend(queue_finding(queue, messages, consumers));
            // What is there is for others.
            if messages == 0
                && queue != UNREADABLE_QUEUE
                && let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await?
            {
                let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                channel.basic_nack(message.delivery.delivery_tag, back).await?;
            }
            Ok(())
        };
        if let Err(error) = attempt.await {
            note_refusal(format!("queue {queue}"), broker.error(&error), findings)?;
        }
        let _ = channel.close(200, "OK".into()).await;
    }
    close(&connection).await;
    Ok(())
}

/// From the queue itself and not from the management API, whose figures are some seconds old.
fn queue_finding(queue: &str, messages: u32, consumers: u32) -> Option<Finding> {
    let (problem, advice) = match queue {
        UNREADABLE_QUEUE if messages > 0 => (
            format!("{messages} messages could not even be stored for a person"),
            "look at them in the management UI, correct their publisher, and delete them",
        ),
        UNREADABLE_QUEUE => return None,
        PARKED_QUEUE if messages > 0 && consumers == 0 => (
            format!("{messages} messages wait to be taken into the table of parked messages"),
            "start a worker, or run `overdue parked list`",
        ),
        PARKED_QUEUE => return None,
        _ if consumers == 0 && endpoint_of_queue(queue).is_some() => (
            format!("has no consumer; {messages} events wait"),
            "start a process with the role webhooks; if one runs, its endpoint is stopped (`overdue webhook list`) or given up for a while (the log says why)",
        ),
        _ if consumers == 0 => (
            format!("has no consumer; {messages} messages wait"),
            "start a worker, and look at the log of those that run",
        ),
        _ => return None,
    };
    Some(Finding::new(format!("queue {queue}"), problem, advice))
}

/// A finding if the broker refuses this. What is missing was said already.
fn note_refusal(object: String, error: BrokerError, findings: &mut Vec<Finding>) -> Result<(), BrokerError> {
    match error {
        // The exchange is there, so if the channel is just closing, without a reason yet, it is for this one.
        BrokerError::AccessRefused(text) | BrokerError::Protocol(text) => {
            findings.push(Finding::new(object, format!("may not be used by this user ({text})"), RIGHTS_ADVICE));
            Ok(())
        }
        BrokerError::Topology(_) => Ok(()),
        other => Err(other),
    }
}
