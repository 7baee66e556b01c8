//! What arming orders costs the shop that does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::calibration::Calibration;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::Stage;

/// Clients that commit at the same time.
const CLIENTS: usize = 32;

/// How long they do.
const FOR: Duration = Duration::from_secs(5);

/// So many clients insert a row into the outbox, each in a transaction of its own, while a relay runs; beside it, the same without
/// any.
pub(crate) async fn measure(servers: &Servers, calibration: &Calibration, runs: usize) -> Result<Measurement> {
    let run = async || {
        let limit = commits(servers, false).await?;
        Ok(Run { rate: Some(commits(servers, true).await?), limit: Some(limit), ..Run::default() })
    };
    Ok(Measurement {
        name: "arming".to_owned(),
        what: format!("arming: {CLIENTS} clients, an order a transaction, a relay running"),
        beside: "the same without a relay",
        runs: calibration.repeat(runs, run).await?,
    })
}

async fn commits(servers: &Servers, with_relay: bool) -> Result<f64> {
    let stage = Stage::set(servers).await;
    let relay = if with_relay { Some(stage.start_quietly(&["--only", "relay"], "running").await?) } else { None };
    let (made, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let client = async || {
        let mut connection = PgConnection::connect(&stage.world.database_url).await?;
        while begun.elapsed() < FOR {
            let number = made.fetch_add(1, Ordering::Relaxed);
            let insert =
                sqlx::query("insert into outbox (order_id, due_at) values ('o-' || $1, now() + interval '30 minutes')");
            connection.execute(insert.bind(number as i64)).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..CLIENTS).map(|_| client())).await?;
    let rate = made.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    if let Some(relay) = relay {
        stage.stop(relay).await?;
    }
    stage.world.close().await;
    Ok(rate)
}

/// In [`Run::more`]: how long the old transaction was open at the end.
const OPEN: &str = "transaction open s";

/// From the outbox to the confirm while an old transaction is open that might see all rows; beside it, the same without one.
pub(crate) async fn snapshot(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    orders: u32,
) -> Result<Measurement> {
    let run = async || {
        let limit = passing(servers, orders, false).await?;
        let begun = Instant::now();
        let mut run = Run { rate: Some(passing(servers, orders, true).await?), limit: Some(limit), ..Run::default() };
        run.more.insert(OPEN, begun.elapsed().as_secs_f64());
        Ok(run)
    };
    Ok(Measurement {
        name: "snapshot".to_owned(),
        what: format!("relay: {orders} orders pass, 1,000 at a time, while an old transaction is open"),
        beside: "the same without it",
        runs: calibration.repeat(runs, run).await?,
    })
}

/// Orders that come by the thousand, as soon as the thousand before is gone.
async fn passing(servers: &Servers, orders: u32, with_old: bool) -> Result<f64> {
    const AT_A_TIME: u32 = 1_000;
    let stage = Stage::set(servers).await;
    let mut old = PgConnection::connect(&stage.world.database_url).await?;
    if with_old {
        old.execute("begin isolation level repeatable read; create table report as select count(*) from outbox")
            .await?;
    }
    let relay = stage.start_quietly(&["--only", "relay"], "running").await?;
    let begun = Instant::now();
    for number in 0..orders / AT_A_TIME {
        let arm = format!(
            "insert into outbox (order_id, due_at)
             select 'o-{number}-' || g, now() + interval '30 minutes' from generate_series(1, {AT_A_TIME}) g"
        );
        stage.world.execute(&arm).await;
        stage.until("they are gone", "select count(*) from (select from outbox limit 1) x", 0).await;
    }
    let rate = f64::from(orders) / begun.elapsed().as_secs_f64();
    old.close().await?;
    stage.stop(relay).await?;
    stage.world.close().await;
    Ok(rate)
}
