//! A queue with message TTL whose dead-letter exchange is the default one, as most tutorials have it.

use anyhow::Result;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use crate::amqp::channel;

/// Where messages wait. All in one queue: none leaves before those ahead of it.
pub(crate) const WAIT: &str = "plain.wait";

/// Where they go then.
pub(crate) const DUE: &str = "plain.due";

pub(crate) async fn declare(amqp_url: &str) -> Result<()> {
    let (connection, channel) = channel(amqp_url).await?;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(DUE.into(), options, FieldTable::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(DUE.into()));
    channel.queue_declare(WAIT.into(), options, arguments).await?;
    connection.close(200, "".into()).await?;
    Ok(())
}
