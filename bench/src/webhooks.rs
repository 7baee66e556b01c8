//! Webhooks: how many deliveries a second, how long one takes, and what a dead endpoint costs the others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use lapin::{BasicProperties, Channel};
use serde_json::json;
use tests::{Receiver, Reply, until_none_is_left};
use time::OffsetDateTime;

use crate::amqp::channel;
use crate::calibration::Calibration;
use crate::flows::paced;
use crate::results::{Lateness, Measurement, Run};
use crate::servers::Servers;
use crate::stage::Stage;

/// Nothing listens there.
const DEAD: &str = "http://127.0.0.1:1/hooks";

/// How many events are published before their confirms are awaited.
const AT_A_TIME: u32 = 2_000;

/// Events that wait, all for one endpoint; beside a dead endpoint for which `dead` more wait.
pub(crate) async fn backlog(
    servers: &Servers,
    calibration: &Calibration,
    events: u32,
    dead: u32,
    runs: usize,
) -> Result<Measurement> {
    let run = async || {
        let (stage, receiver) = (Stage::set(servers).await, Receiver::start().await);
        let arrivals = Arrivals::of(&receiver);
        let file = Endpoints::declare(&stage, &receiver).await?;
        publish(&stage, "payment.late", 0..dead).await?;
        publish(&stage, "order.closed", 0..events).await?;
        stage.broker_idles().await?;
        let watched = stage.start_quietly(&["--only", "webhooks", "--webhooks", file.path()], "running").await?;
        arrivals.reach(events).await;
        let cpu = stage.used(&watched)?;
        let run = Run { rate: Some(arrivals.rate()), cpu: Some(cpu), ..Run::default() };
        stage.close(Some(watched)).await?;
        Ok(run)
    };
    let runs = calibration.repeat(runs, run).await?;
    let (name, what) = match dead {
        0 => ("webhooks", format!("webhooks: {events} events wait for one endpoint")),
        dead => ("webhooks_dead", format!("the same, {dead} more wait for an endpoint that is dead")),
    };
    Ok(Measurement { name: name.to_owned(), what, beside: "", runs })
}

/// Events that come all the time: from publishing to the endpoint.
pub(crate) async fn steady(
    servers: &Servers,
    calibration: &Calibration,
    per_second: u32,
    seconds: u32,
    runs: usize,
) -> Result<Measurement> {
    let run = async || {
        let (stage, receiver) = (Stage::set(servers).await, Receiver::start().await);
        let arrivals = Arrivals::of(&receiver);
        let file = Endpoints::declare(&stage, &receiver).await?;
        let watched = stage.start_quietly(&["--only", "webhooks", "--webhooks", file.path()], "running").await?;
        let (_connection, channel) = channel(&stage.world.amqp_url).await?;
        paced(per_second, seconds, async |numbers| {
            for number in numbers {
                publish_one(&channel, "order.closed", number).await?;
            }
            Ok(())
        })
        .await?;
        arrivals.reach(per_second * seconds).await;
        let cpu = stage.used(&watched)?;
        let run = Run { lateness: Some(arrivals.lateness()), cpu: Some(cpu), ..Run::default() };
        stage.close(Some(watched)).await?;
        Ok(run)
    };
    let runs = calibration.repeat(runs, run).await?;
    let what = format!("webhooks: {per_second} events/s for {seconds} s, from publishing to the endpoint");
    Ok(Measurement { name: "webhooks_steady".to_owned(), what, beside: "", runs })
}

/// The file of a live endpoint and of a dead one; deleted in the end.
struct Endpoints(PathBuf);

impl Endpoints {
    async fn declare(stage: &Stage, receiver: &Receiver) -> Result<Self> {
        let endpoint = |name: &str, url: &str, types: &str| {
            format!(
                "[[endpoint]]\nname = \"{name}\"\nurl = \"{url}\"\ntypes = [\"{types}\"]\nallow_private = true\n\
                 keys = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n"
            )
        };
        let text = endpoint("shop", &receiver.url(), "order.*") + &endpoint("dead", DEAD, "payment.*");
        let file = Self(std::env::temp_dir().join(format!("overdue-{}-endpoints.toml", stage.world.vhost)));
        std::fs::write(&file.0, text)?;
        let declared = stage.world.overdue(&["topology", "declare", "--webhooks", file.path()]).await;
        ensure!(declared.status.success(), "declaring the endpoints' queues: {declared:?}");
        Ok(file)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// When deliveries arrived, and how long after their publishing in milliseconds.
struct Arrivals(Arc<Mutex<Vec<(Instant, f64)>>>);

impl Arrivals {
    /// Of all that this receiver is sent from now on.
    fn of(receiver: &Receiver) -> Self {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&arrivals);
        receiver.answers(move |received| {
            let sent_ns = received.event()["data"]["sent_ns"].as_i64().unwrap_or(0);
            let late_ms = (now_ns() - sent_ns) as f64 / 1e6;
            shared.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), late_ms));
            Reply::status(204)
        });
        Self(arrivals)
    }

    fn get(&self) -> Vec<(Instant, f64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn reach(&self, events: u32) {
        let waiting = async || u64::from(events).saturating_sub(self.get().len() as u64);
        until_none_is_left(&format!("{events} events are delivered"), waiting).await;
    }

    /// Deliveries a second, from the first to the last.
    fn rate(&self) -> f64 {
        let arrivals = self.get();
        let (Some((first, _)), Some((last, _))) = (arrivals.first(), arrivals.last()) else { return f64::NAN };
        (arrivals.len() - 1) as f64 / (*last - *first).max(Duration::from_nanos(1)).as_secs_f64()
    }

    fn lateness(&self) -> Lateness {
        Lateness::of(self.get().into_iter().map(|(_, late_ms)| late_ms).collect())
    }
}

fn now_ns() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// Publishes events as the relay does, many at a time.
async fn publish(stage: &Stage, kind: &str, numbers: std::ops::Range<u32>) -> Result<()> {
    let (_connection, channel) = channel(&stage.world.amqp_url).await?;
    for first in numbers.clone().step_by(AT_A_TIME as usize) {
        let some = first..numbers.end.min(first + AT_A_TIME);
        try_join_all(some.map(|number| publish_one(&channel, kind, number))).await?;
    }
    Ok(())
}

async fn publish_one(channel: &Channel, kind: &str, number: u32) -> Result<()> {
    let id = format!("evt_{kind}_{number}").replace('.', "_");
    let data = json!({ "sent_ns": now_ns() });
    let event = json!({ "specversion": "1.0", "id": id, "type": kind, "source": "/overdue", "data": data });
    let properties =
        BasicProperties::default().with_content_type("application/cloudevents+json".into()).with_delivery_mode(2);
    let (exchange, body) = ("overdue.events".into(), event.to_string());
    let confirm = channel.basic_publish(exchange, kind.into(), Default::default(), body.as_bytes(), properties);
    confirm.await?.await?;
    Ok(())
}
