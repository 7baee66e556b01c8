//! Whether a broker can be worked with at this moment.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ExchangeKind};
use tokio::time::timeout;

use crate::connection::close;
use crate::declare::{find_exchange, find_queue};
use crate::topology::LANES_EXCHANGE;
use crate::{Broker, BrokerError, Topology};

/// How long a broker may take to say that it blocks publishers.
const BLOCKED_WITHIN: Duration = Duration::from_secs(1);

/// Fails if an exchange or a queue of the topology is missing. Every role checks this before it starts. It needs no right
/// to configure.
///
/// # Errors
/// [`BrokerError::Topology`] names the first object that is missing.
pub async fn check_presence(topology: &Topology, broker: &Broker) -> Result<(), BrokerError> {
    let connection = broker.connect("check").await?;
    let outcome = find_all(topology, broker, &connection).await;
    close(&connection).await;
    outcome
}

/// Tells again and again whether a broker can be worked with.
pub struct BrokerProbe {
    broker: Broker,
    topology: Topology,
    /// A connection that the broker has blocked. It cannot even be closed before the broker reads on, and each new one
    /// would be blocked as well.
    blocked: Option<Connection>,
}

impl BrokerProbe {
    /// Of a process that needs this topology.
    #[must_use]
    pub fn new(broker: Broker, topology: Topology) -> Self {
        Self { broker, topology, blocked: None }
    }

    /// Fails if an exchange or a queue of the topology is missing, or if the broker takes nothing from publishers now.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] names the first object that is missing; [`BrokerError::Blocked`].
    pub async fn check(&mut self) -> Result<(), BrokerError> {
        if let Some(connection) = self.blocked.take() {
            if connection.status().connected() && connection.status().blocked() {
                self.blocked = Some(connection);
                return Err(BrokerError::Blocked);
            }
            close(&connection).await;
        }
        let connection = self.broker.connect("readiness").await?;
        let outcome = self.try_out(&connection).await;
        if matches!(outcome, Err(BrokerError::Blocked)) {
            self.blocked = Some(connection);
        } else {
            close(&connection).await;
        }
        outcome
    }

    async fn try_out(&self, connection: &Connection) -> Result<(), BrokerError> {
        find_all(&self.topology, &self.broker, connection).await?;
        match timeout(BLOCKED_WITHIN, try_publishing(&self.broker, connection, LANES_EXCHANGE)).await {
            // A role without the right publishes nothing.
            Ok(Ok(()) | Err(BrokerError::AccessRefused(_) | BrokerError::Protocol(_))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BrokerError::Blocked),
        }
    }
}

/// Whether this user may publish to an exchange, and the broker takes it: a message in a transaction that is rolled back is
/// refused at once, but never sent. A refusal closes the channel, so each try has one of its own.
pub(crate) async fn try_publishing(
    broker: &Broker,
    connection: &Connection,
    exchange: &'static str,
) -> Result<(), BrokerError> {
    let channel = broker.channel(connection).await?;
    let attempt = async {
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, passive, FieldTable::default()).await?;
        channel.tx_select().await?;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        drop(channel.basic_publish(exchange.into(), "doctor.nowhere".into(), options, b"", properties).await?);
        channel.tx_rollback().await
    };
    let outcome = attempt.await.map_err(|error| broker.error(&error));
    let _ = channel.close(200, "OK".into()).await;
    outcome
}

async fn find_all(topology: &Topology, broker: &Broker, connection: &Connection) -> Result<(), BrokerError> {
    let channel = broker.channel(connection).await?;
    for exchange in &topology.exchanges {
        find_exchange(exchange, &channel).await.map_err(|error| broker.error(&error))?;
    }
    for queue in &topology.queues {
        find_queue(queue, &channel).await.map_err(|error| broker.error(&error))?;
    }
    Ok(())
}
