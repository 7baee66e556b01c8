//! One order a message, as services send them that publish themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;
use time::OffsetDateTime;

use crate::calibration::Calibration;
use crate::limits;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// So many orders due at one instant in as many messages; beside it, consuming as many messages through the same lane and
/// doing nothing with them.
pub(crate) async fn measure(
    servers: &Servers,
    calibration: &Calibration,
    orders: u32,
    runs: usize,
    shards: u16,
) -> Result<Measurement> {
    let run = async || {
        let mut run = product(servers, orders, shards).await?;
        run.limit = Some(bare(servers, orders, shards).await?);
        Ok(run)
    };
    let all = calibration.repeat(runs, run).await?;
    Ok(Measurement {
        name: if shards == 1 { "single".to_owned() } else { format!("single_{shards}_shards") },
        what: format!("one order a message: {orders} orders due at one instant, {shards} shards"),
        beside: "bare consume through the same lane",
        runs: all,
    })
}

/// The due queues of so many shards.
fn queues(shards: u16) -> Vec<String> {
    (0..shards)
        .map(|shard| format!("overdue.v1.due.payment{}", if shard == 0 { String::new() } else { format!(".{shard}") }))
        .collect()
}

/// How long publishing takes, reckoned generously.
fn lead_s(orders: u32) -> f64 {
    3.0 + f64::from(orders) / 9_000.0
}

/// The lane that lasts longer than that.
const LANE: &str = "30s";

async fn product(servers: &Servers, orders: u32, shards: u16) -> Result<Run> {
    let stage = Stage::spread(servers, shards).await;
    let deadline = stage.after(lead_s(orders) + 6.0).await?;
    let due = Orders { armed: false, ..Orders::due_at(deadline, orders) };
    stage.seed(due).await?;
    stage.settle_down().await?;
    limits::publish(&stage, due, LANE, true, 2).await?;
    let mut watched = stage.start(&["--only", "worker"], 1, "consuming").await?;
    stage.warm_up(&mut watched).await?;
    stage.is_before(deadline).await?;
    let done = stage.settled(&watched, orders.into()).await?;
    let cpu = stage.used(&watched)?;
    let rate = f64::from(orders) / (done - deadline).as_seconds_f64();
    let run = Run { rate: Some(rate), cpu: Some(cpu), lateness: Some(stage.lateness("o").await?), ..Run::default() };
    stage.close(Some(watched)).await?;
    Ok(run)
}

async fn bare(servers: &Servers, orders: u32, shards: u16) -> Result<f64> {
    let stage = Stage::spread(servers, shards).await;
    let deadline = stage.after(lead_s(orders)).await?;
    limits::publish(&stage, Orders { armed: false, ..Orders::due_at(deadline, orders) }, LANE, true, 2).await?;
    stage.is_before(deadline).await?;
    let last = Arc::new(AtomicI64::new(0));
    let seen = Arc::clone(&last);
    let now_us = || (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000) as i64;
    limits::consume(&stage, &queues(shards), orders, move |_| {
        seen.fetch_max(now_us(), Ordering::Relaxed);
    })
    .await?;
    let took_us = last.load(Ordering::Relaxed) - (deadline.unix_timestamp_nanos() / 1000) as i64;
    stage.world.close().await;
    Ok(f64::from(orders) / (took_us as f64 / 1e6))
}
