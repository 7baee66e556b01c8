//! How much waits in each queue, as AMQP itself tells it.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::connection::close;
use crate::{Broker, BrokerError, QueueState, Topology};

/// The queues of the topology, with the messages that could be delivered and how many consume each. It asks for one after the other on a
/// connection of its own, and needs no right. The management API tells more.
///
/// # Errors
/// [`BrokerError::Topology`] names the first queue that is missing; others if the broker cannot be asked.
pub async fn queue_depths(topology: &Topology, broker: &Broker) -> Result<Vec<QueueState>, BrokerError> {
    let connection = broker.connect("depths").await?;
    let asked = async {
        let channel = broker.channel(&connection).await?;
        let mut depths = Vec::with_capacity(topology.queues.len());
        for queue in &topology.queues {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.name.as_str().into(), passive, FieldTable::default()).await;
            let declared = declared.map_err(|error| broker.error(&error))?;
            let (messages, consumers) = (declared.message_count().into(), declared.consumer_count().into());
            depths.push(QueueState::ready(&queue.name, messages, consumers));
        }
        Ok(depths)
    };
    let depths = asked.await;
    close(&connection).await;
    depths
}
