//! Millions of orders that wait while others fall due.

use std::time::Duration;

use anyhow::Result;

use crate::bursts::lead_s;
use crate::limits;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// What the queues' processes hold in memory for each order that waits.
pub(crate) const MEMORY: &str = "broker memory B/order";
/// What names of measurements begin with; how many are pending follows.
pub(crate) const NAME: &str = "backlog_";

/// Bursts of so many orders with more and more others pending: in the table, and a message each in the lane.
pub(crate) async fn measure(servers: &Servers, orders: u32, pending: &[u32]) -> Result<Vec<Measurement>> {
    let stage = Stage::set(servers).await;
    let mut measurements = Vec::new();
    let (empty, _) = servers.broker_memory(&stage.world.vhost).await?;
    let empty_disk = servers.broker_disk()?;
    let mut waiting = 0;
    for (level, &count) in pending.iter().enumerate() {
        let prefix = format!("w{level}-");
        if count > waiting {
            let deadline = stage.after(6.0 * 3600.0).await?;
            let more = Orders { prefix: &prefix, armed: false, ..Orders::due_at(deadline, count - waiting) };
            futures_util::future::try_join(stage.seed(more), limits::publish(&stage, more, "12h", false, 2)).await?;
            waiting = count;
        }
        let mut run = Run::default();
        if waiting > 0 {
            let (memory, node) = servers.broker_memory(&stage.world.vhost).await?;
            let disk = servers.broker_disk()?;
            run.more.insert(MEMORY, (memory - empty) / f64::from(waiting));
            run.more.insert("broker disk B/order", (disk - empty_disk) / f64::from(waiting));
            run.more.insert("broker's node MB", node / 1e6);
        }
        // Twice, so that the second time, which the deadline waits for, has little to do.
        stage.settle_down().await?;
        let prefix = format!("b{level}-");
        let deadline = stage.after(lead_s(orders) * 2.0).await?;
        stage.seed(Orders { prefix: &prefix, ..Orders::due_at(deadline, orders) }).await?;
        stage.arm().await?;
        stage.settle_down().await?;
        let mut watched = stage.start(&["--only", "worker"], 1, "consuming").await?;
        stage.warm_up(&mut watched).await?;
        stage.is_before(deadline).await?;
        let done = stage.settled(&watched, orders.into()).await?;
        run.rate = Some(f64::from(orders) / (done - deadline).as_seconds_f64());
        run.cpu = Some(stage.used(&watched)?);
        run.lateness = Some(stage.lateness(&prefix).await?);
        stage.stop(watched).await?;
        stage.world.execute("delete from outbox").await;
        measurements.push(Measurement {
            name: format!("{NAME}{count}"),
            what: format!("backlog: {orders} due at one instant, {count} more pending"),
            beside: "",
            runs: vec![run],
        });
    }
    stage.close(None).await?;
    // A million messages take the broker a while to forget.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(measurements)
}

/// What an order that waits costs the broker when 256 share a message.
pub(crate) async fn coalesced_memory(servers: &Servers, orders: u32) -> Result<Measurement> {
    let stage = Stage::set(servers).await;
    let (empty, _) = servers.broker_memory(&stage.world.vhost).await?;
    let deadline = stage.after(6.0 * 3600.0).await?;
    stage.seed(Orders::due_at(deadline, orders)).await?;
    stage.arm().await?;
    let (memory, _) = servers.broker_memory(&stage.world.vhost).await?;
    let mut run = Run::default();
    run.more.insert(MEMORY, (memory - empty) / f64::from(orders));
    stage.close(None).await?;
    Ok(Measurement {
        name: "coalesced_memory".to_owned(),
        what: format!("{orders} orders wait, 256 a message"),
        beside: "",
        runs: vec![run],
    })
}
