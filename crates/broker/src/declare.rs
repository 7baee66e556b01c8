//! Declaring the topology: for real, or passively to see whether it is there.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use crate::connection::close;
use crate::topology::{Argument, Arguments, Exchange, Queue};
use crate::{Broker, BrokerError, Topology};

/// Creates the objects that are missing, and then removes the bindings that earlier versions made. Objects that are
/// there already and alike stay as they are.
///
/// # Errors
/// [`BrokerError::Topology`] if an object exists with other arguments; the objects before it are created.
pub async fn declare(topology: &Topology, broker: &Broker) -> Result<(), BrokerError> {
    let connection = broker.connect("topology").await?;
    let channel = broker.channel(&connection).await?;
    let outcome = declare_on(topology, &channel).await.map_err(|error| broker.error(&error));
    close(&connection).await;
    outcome
}

async fn declare_on(topology: &Topology, channel: &Channel) -> Result<(), lapin::Error> {
    for exchange in &topology.exchanges {
        declare_exchange(exchange, channel).await?;
    }
    for queue in &topology.queues {
        declare_queue(queue, channel).await?;
    }
    for binding in &topology.bindings {
        let (queue, source) = (binding.queue.as_str().into(), binding.source.into());
        let key = binding.routing_key.as_str().into();
        channel.queue_bind(queue, source, key, QueueBindOptions::default(), FieldTable::default()).await?;
    }
    // Afterwards: a message that is published meanwhile waits in two lanes, and never in none.
    for binding in &topology.retired {
        let (queue, source) = (binding.queue.as_str().into(), binding.source.into());
        channel.queue_unbind(queue, source, binding.routing_key.as_str().into(), FieldTable::default()).await?;
    }
    Ok(())
}

pub(crate) async fn declare_exchange(exchange: &Exchange, channel: &Channel) -> Result<(), lapin::Error> {
    let kind = if exchange.kind == "fanout" { ExchangeKind::Fanout } else { ExchangeKind::Topic };
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.name.into(), kind, options, field_table(&exchange.arguments)).await
}

pub(crate) async fn find_exchange(exchange: &Exchange, channel: &Channel) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
}

pub(crate) async fn declare_queue(queue: &Queue, channel: &Channel) -> Result<(), lapin::Error> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.name.as_str().into(), options, field_table(&queue.arguments)).await.map(drop)
}

pub(crate) async fn find_queue(queue: &Queue, channel: &Channel) -> Result<(), lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.name.as_str().into(), options, FieldTable::default()).await.map(drop)
}

fn field_table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString((*text).into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}
