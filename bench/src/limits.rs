//! What the servers can do at best: each beside which a figure of the product stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use book::{Actor, Closing, ItemReply};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use order::{Deadline, OrderId};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::amqp::channel;
use crate::stage::{Orders, Stage};

/// As many connections as the product's default pipelines, and batches of the same size.
pub(crate) const CONNECTIONS: usize = 2;
pub(crate) const BATCH: u32 = 2048;

/// Closes all orders by the product's own settle statement and nothing else; orders a second.
pub(crate) async fn settle(stage: &Stage, orders: Orders<'_>) -> Result<f64> {
    let next = AtomicU32::new(0);
    let book = stage.world.book();
    let actor = Actor::on_timeout("worker");
    let begun = Instant::now();
    let connection = async || {
        while let Some(batch) = next_batch(&next, &orders) {
            let deadline = Deadline::at(orders.deadline);
            let closing = |number| {
                let id = OrderId::new(&orders.id(number))?;
                Ok(Closing { id, deadline, revision: None, payments: Vec::new(), recheck: None })
            };
            let closings: Vec<Closing> = batch.map(closing).collect::<Result<_, order::BadOrderId>>()?;
            let replies = book.settle(&closings, &actor, None).await?.items;
            let closed = replies.values().filter(|item| matches!(item, ItemReply::Done(_))).count();
            ensure!(closed == closings.len(), "only {closed} of {} were closed", closings.len());
        }
        Ok(())
    };
    try_join_all((0..CONNECTIONS).map(|_| connection())).await?;
    Ok(f64::from(orders.count) / begun.elapsed().as_secs_f64())
}

/// Loads all orders by the product's own query and nothing else; orders a second.
pub(crate) async fn load(stage: &Stage, orders: Orders<'_>) -> Result<f64> {
    let next = AtomicU32::new(0);
    let book = stage.world.book();
    let begun = Instant::now();
    let connection = async || {
        while let Some(batch) = next_batch(&next, &orders) {
            let ids = batch.map(|number| OrderId::new(&orders.id(number))).collect::<Result<Vec<_>, _>>()?;
            ensure!(book.load(&ids, None).await?.items.len() == ids.len(), "orders are missing");
        }
        Ok(())
    };
    try_join_all((0..CONNECTIONS).map(|_| connection())).await?;
    Ok(f64::from(orders.count) / begun.elapsed().as_secs_f64())
}

fn next_batch(next: &AtomicU32, orders: &Orders<'_>) -> Option<std::ops::RangeInclusive<u32>> {
    let begin = next.fetch_add(BATCH, Ordering::Relaxed) + 1;
    (begin <= orders.count).then(|| begin..=(begin + BATCH - 1).min(orders.count))
}

/// As most write it: a transaction for each order, with the same rows; orders a second.
pub(crate) async fn one_by_one(stage: &Stage, orders: Orders<'_>) -> Result<f64> {
    let next = AtomicU32::new(1);
    let begun = Instant::now();
    let connection = async || {
        let mut connection = PgConnection::connect(&stage.world.database_url).await?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > orders.count {
                return Ok::<_, anyhow::Error>(());
            }
            close_one(&mut connection, &orders.id(number)).await?;
        }
    };
    try_join_all((0..CONNECTIONS).map(|_| connection())).await?;
    Ok(f64::from(orders.count) / begun.elapsed().as_secs_f64())
}

/// Closes an order in a transaction of its own, if it is pending still.
pub(crate) async fn close_one(connection: &mut PgConnection, id: &str) -> Result<()> {
    let mut transaction = connection.begin().await?;
    let status: String = sqlx::query_scalar("select status from orders where id = $1 for update")
        .bind(id)
        .fetch_one(&mut *transaction)
        .await?;
    if status == "pending" {
        let close = "update orders set status = 'closed', closed_at = clock_timestamp() where id = $1";
        sqlx::query(close).bind(id).execute(&mut *transaction).await?;
        let items: Vec<(String, i64)> =
            sqlx::query_as("select sku_id, quantity from order_items where order_id = $1 order by sku_id")
                .bind(id)
                .fetch_all(&mut *transaction)
                .await?;
        for (sku, quantity) in items {
            let restock = "update inventory set available = available + $2, reserved = reserved - $2 where sku_id = $1";
            sqlx::query(restock).bind(sku).bind(quantity).execute(&mut *transaction).await?;
        }
        let log = "insert into order_log (order_id, from_status, to_status, reason, actor) values ($1, 'pending', 'closed', 'payment timeout', 'loop')";
        sqlx::query(log).bind(id).execute(&mut *transaction).await?;
        let key = "insert into idempotency_keys (key, order_id, outcome) values ('loop:' || $1, $1, 'closed') on conflict do nothing";
        sqlx::query(key).bind(id).execute(&mut *transaction).await?;
        let event = "insert into outbox (order_id, due_at, event, event_id, data) values ($1, now(), 'order.closed', 'loop:' || $1, json_build_object('order_id', $1))";
        sqlx::query(event).bind(id).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// How many messages may be on the way, not yet confirmed: as in the product.
const IN_FLIGHT_MAX: usize = 1024;

/// Publishes bare order IDs into a lane, confirmed, a message each, over so many connections; messages a second. With a
/// deadline, they come out at it.
pub(crate) async fn publish(
    stage: &Stage,
    orders: Orders<'_>,
    lane: &str,
    expiring: bool,
    connections: usize,
) -> Result<f64> {
    let next = AtomicU32::new(1);
    let begun = Instant::now();
    let shards = stage.world.lanes.shards();
    let connection = async || {
        let (connection, channel) = channel(&stage.world.amqp_url).await?;
        let mut confirms = std::collections::VecDeque::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > orders.count {
                break;
            }
            if confirms.len() >= IN_FLIGHT_MAX {
                confirmed(confirms.pop_front()).await?;
            }
            let mut properties = BasicProperties::default().with_delivery_mode(2);
            if expiring {
                let remaining = (orders.deadline - OffsetDateTime::now_utc()).whole_milliseconds().max(0);
                properties = properties.with_expiration((remaining + 1).to_string().into());
            }
            let body = orders.id(number);
            let key = format!("{lane}.payment{}", shards.of(&body));
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            confirms.push_back(
                channel
                    .basic_publish("overdue.delay".into(), key.as_str().into(), options, body.as_bytes(), properties)
                    .await?,
            );
        }
        for confirm in confirms {
            confirmed(Some(confirm)).await?;
        }
        connection.close(200, "".into()).await?;
        Ok::<_, anyhow::Error>(())
    };
    try_join_all((0..connections).map(|_| connection())).await?;
    Ok(f64::from(orders.count) / begun.elapsed().as_secs_f64())
}

async fn confirmed(confirm: Option<lapin::PublisherConfirm>) -> Result<()> {
    if let Some(confirm) = confirm {
        ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "the broker did not take a message");
    }
    Ok(())
}

/// Consumes this many messages, with as many connections and as much sent ahead as the product, acks in multiples, and does
/// nothing with them; calls `each` for the body of each as it arrives.
pub(crate) async fn consume(
    stage: &Stage,
    queues: &[String],
    messages: u32,
    each: impl Fn(&[u8]) + Send + Sync + 'static,
) -> Result<()> {
    let (each, taken) = (Arc::new(each), Arc::new(AtomicU32::new(0)));
    let consumer = async |queue: String| {
        let (connection, channel) = channel(&stage.world.amqp_url).await?;
        channel.basic_qos(2048, BasicQosOptions::default()).await?;
        let mut consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let mut unacked = 0;
        while taken.load(Ordering::Relaxed) < messages {
            // Whoever took the last one tells nobody.
            let Ok(delivery) = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await else {
                continue;
            };
            let Some(delivery) = delivery.transpose()? else { break };
            each(&delivery.data);
            unacked += 1;
            let all = taken.fetch_add(1, Ordering::Relaxed) + 1;
            if unacked == 256 || all == messages {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
                unacked = 0;
            }
        }
        connection.close(200, "".into()).await?;
        Ok::<_, anyhow::Error>(())
    };
    let queues = queues.iter().cycle().take(CONNECTIONS.max(queues.len()));
    try_join_all(queues.map(|queue| consumer(queue.clone()))).await?;
    Ok(())
}

/// A pool with room for whoever makes orders while others work.
pub(crate) fn pool(url: &str) -> Result<sqlx::PgPool> {
    Ok(PgPoolOptions::new().max_connections(4).connect_lazy(url)?)
}
