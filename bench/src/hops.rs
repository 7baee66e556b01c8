//! What a hop costs: from lane to lane by a worker, and from queue to queue inside the broker.

use std::time::Duration;

use anyhow::{Context, Result};
use broker::{Outgoing, Publisher};
use lapin::options::{
    BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};
use order::{Deadline, Hop, Lane, OrderId, Shard, TimeoutKind};
use tests::until_none_is_left;

use crate::amqp::channel;
use crate::calibration::Calibration;
use crate::flows::paced;
use crate::results::{Measurement, Run};
use crate::servers::{Cpu, Servers};
use crate::stage::Stage;

const PER_SECOND: u32 = 500;

const PROGRAM: &str = "CPU µs a hop, program";
const BROKER: &str = "CPU µs a hop, broker";

pub(crate) async fn measure(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    seconds: u32,
) -> Result<Vec<Measurement>> {
    let ours = async || {
        let with = by_a_worker(servers, seconds, "1s", Duration::from_millis(900)).await?;
        let without = by_a_worker(servers, seconds, "1h", Duration::from_secs(1800)).await?;
        Ok(a_hop(with.since(without), seconds, 1))
    };
    let inside = async |queue_type: &str| {
        // One stay of four seconds, or three: one, two and four.
        let (one, three) =
            (ladder(servers, seconds, 4, queue_type).await?, ladder(servers, seconds, 7, queue_type).await?);
        Ok(a_hop(three.since(one), seconds, 2))
    };
    let measurement = |name: &str, what: &str, runs| {
        let what = format!("{what}, {PER_SECOND} messages/s");
        Measurement { name: name.to_owned(), what, beside: "", runs }
    };
    Ok(vec![
        measurement("hop_worker", "a hop by a worker", calibration.repeat(runs, ours).await?),
        measurement(
            "hop_classic",
            "a hop inside the broker, classic queues",
            calibration.repeat(runs, async || inside("classic").await).await?,
        ),
        measurement(
            "hop_quorum",
            "the same, quorum queues that dead-letter at least once",
            calibration.repeat(runs, async || inside("quorum").await).await?,
        ),
    ])
}

/// Of so many hops more that each message took.
fn a_hop(more: Cpu, seconds: u32, hops: u32) -> Run {
    let each = |total: f64| total / f64::from(PER_SECOND * seconds * hops) * 1e6;
    let mut run = Run::default();
    run.more.insert(PROGRAM, each(more.overdue));
    run.more.insert(BROKER, each(more.broker));
    run
}

/// Messages that are due tomorrow come out of a lane, and the worker sends them on; from a lane that is long enough, none comes.
async fn by_a_worker(servers: &Servers, seconds: u32, lane: &str, wait: Duration) -> Result<Cpu> {
    let stage = Stage::set(servers).await;
    let watched = stage.start_quietly(&["--only", "worker", "--listen", "127.0.0.1:0"], "consuming").await?;
    let lane: Lane = lane.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let hop = Hop::Lane { lane, wait_ms: u64::try_from(wait.as_millis())? };
    let comes_out = wait < Duration::from_secs(1);
    let deadline = Deadline::at(stage.after(24.0 * 3600.0).await?);
    let mut publisher = Publisher::new(stage.world.broker(), "hops", Publisher::CONFIRM_TIMEOUT);
    paced(PER_SECOND, seconds, async |numbers| {
        let message = |number: u32| {
            let id = OrderId::new(&format!("o-{number}"))?;
            Ok(Outgoing::timeout(TimeoutKind::Payment, &[(id.into(), deadline)], hop, Shard::FIRST))
        };
        let messages = numbers.map(message).collect::<Result<Vec<_>>>()?;
        Ok(publisher.publish_all(&messages).await?)
    })
    .await?;
    let all = u64::from(PER_SECOND * seconds);
    if comes_out {
        until_none_is_left("all are sent on", async || {
            let told = watched.metrics().await.map_or(0.0, |told| told.sum("overdue_sent_on_total"));
            all.saturating_sub(told as u64)
        })
        .await;
    } else {
        // As long as the others need for the last of theirs.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let cpu = stage.used(&watched)?;
    publisher.close().await;
    stage.stop(watched).await?;
    stage.world.close().await;
    Ok(cpu)
}

/// As many levels as are needed here, each twice as long as the one below: `ladder.0` lasts a second.
const LEVELS: i32 = 3;

/// Messages wait for so many seconds, in the levels of those bits that are set, and pass by the others; as the delays of
/// NServiceBus do (<https://docs.particular.net/transports/rabbitmq/delayed-delivery>).
async fn ladder(servers: &Servers, seconds: u32, wait_s: u32, queue_type: &str) -> Result<Cpu> {
    let stage = Stage::set(servers).await;
    let (_connection, channel) = channel(&stage.world.amqp_url).await?;
    declare(&channel, queue_type).await?;
    let before = stage.servers.cpu(&[])?;
    let bits: Vec<String> = (0..LEVELS).rev().map(|level| (wait_s >> level & 1).to_string()).collect();
    let key = format!("{}.end", bits.join("."));
    let exchange = format!("ladder.{}", LEVELS - 1);
    paced(PER_SECOND, seconds, async |numbers| {
        let mut confirms = Vec::new();
        for number in numbers {
            let (options, body) = (BasicPublishOptions::default(), format!("o-{number}"));
            let properties = BasicProperties::default().with_delivery_mode(2);
            let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
            confirms.push(channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await?);
        }
        for confirm in confirms {
            confirm.await?;
        }
        Ok(())
    })
    .await?;
    let all = u64::from(PER_SECOND * seconds);
    until_none_is_left("all have come to the end", async || {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("ladder.end".into(), options, FieldTable::default()).await;
        all.saturating_sub(queue.map_or(0, |queue| queue.message_count().into()))
    })
    .await;
    let cpu = stage.servers.cpu(&[])?.since(before);
    stage.world.close().await;
    Ok(cpu)
}

async fn declare(channel: &Channel, queue_type: &str) -> Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let below = |level: i32| if level > 0 { format!("ladder.{}", level - 1) } else { "ladder.end".to_owned() };
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for name in (0..LEVELS).map(|level| format!("ladder.{level}")).chain(["ladder.end".to_owned()]) {
        channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
    }
    for level in 0..LEVELS {
        let (name, next) = (format!("ladder.{level}"), below(level));
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text(queue_type));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1_000 << level));
        arguments.insert("x-dead-letter-exchange".into(), text(&next));
        if queue_type == "quorum" {
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
        }
        channel.queue_declare(name.as_str().into(), durable, arguments).await?;
        // The bit of this level stands behind those of the levels above it.
        let bit = usize::try_from(LEVELS - 1 - level).context("a level")?;
        let pattern = |bit_is: &str| format!("{}{bit_is}.#", "*.".repeat(bit));
        let (queue, exchange) = (name.as_str().into(), name.as_str().into());
        let (set, unset) = (pattern("1"), pattern("0"));
        channel.queue_bind(queue, exchange, set.into(), QueueBindOptions::default(), FieldTable::default()).await?;
        let (to, from) = (next.as_str().into(), name.as_str().into());
        channel.exchange_bind(to, from, unset.into(), ExchangeBindOptions::default(), FieldTable::default()).await?;
    }
    channel.queue_declare("ladder.end".into(), durable, FieldTable::default()).await?;
    let (queue, exchange) = ("ladder.end".into(), "ladder.end".into());
    channel.queue_bind(queue, exchange, "#".into(), QueueBindOptions::default(), FieldTable::default()).await?;
    Ok(())
}
