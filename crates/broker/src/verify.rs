use lapin::Connection;

use crate::connection::close;
use crate::declare::{declare_exchange, declare_queue, find_exchange, find_queue};
use crate::finding::{Finding, Verification};
use crate::live::Live;
use crate::{Broker, BrokerError, Management, Topology};

/// Compares the live broker with the topology: existence and arguments by AMQP; with the management API also
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
            verification.findings.extend(live.compare(topology));
            if live.feature_flags.is_none() {
                let advice = "the user may not ask for them; older brokers want the tag `administrator`";
                verification.unchecked.push(format!("feature flags: {advice}"));
            }
        }
        // It was asked for and could not be done: that is not a pass.
        Err(error) => verification.findings.push(Finding::new(
            "management API",
            format!("bindings, policies and broker version cannot be checked ({error})"),
            "mend that, or leave its URL out to check by AMQP alone",
        )),
    }
    Ok(verification)
}

/// AMQP tells whether an object exists (a passive declaration) and whether it has the same arguments (a
/// declaration of what exists creates nothing, but is refused where it differs). A refusal closes the
/// channel, so each object gets a new one.
async fn verify_by_amqp(
    topology: &Topology,
    broker: &Broker,
    connection: &Connection,
    findings: &mut Vec<Finding>,
) -> Result<(), BrokerError> {
    for exchange in &topology.exchanges {
        let channel = broker.channel(connection).await?;
        let outcome = async {
            find_exchange(exchange, &channel).await?;
            declare_exchange(exchange, &channel).await
        };
        judge(broker, &format!("exchange {}", exchange.name), outcome.await, findings)?;
        let _ = channel.close(200, "OK".into()).await;
    }
    for queue in &topology.queues {
        let channel = broker.channel(connection).await?;
        let outcome = async {
            find_queue(queue, &channel).await?;
            declare_queue(queue, &channel).await
        };
        judge(broker, &format!("queue {}", queue.name), outcome.await, findings)?;
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
            ("is missing".to_owned(), "run `overdue topology declare`")
        }
        BrokerError::Topology(text) => (
            format!("was declared otherwise ({text})"),
            "let it run empty, delete it and run `overdue topology declare`",
        ),
        BrokerError::AccessRefused(text) => {
            (format!("cannot be checked ({text})"), "verify with a user that may configure and read overdue.*")
        }
        other => return Err(other),
    };
    findings.push(Finding::new(object, problem, advice));
    Ok(())
}
