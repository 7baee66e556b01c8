//! Timers: many that fall due at one instant, and some that come all the time.

use std::time::Duration;

use anyhow::Result;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bursts::lead_s;
use crate::calibration::Calibration;
use crate::flows::paced;
use crate::limits;
use crate::results::{Lateness, Measurement, Run};
use crate::servers::Servers;
use crate::stage::Stage;

/// So many due at one instant. Beside it stands nothing: the burst of orders does, in the goals.
pub(crate) async fn burst(
    servers: &Servers,
    calibration: &Calibration,
    timers: u32,
    runs: usize,
) -> Result<Measurement> {
    let run = async || {
        for lead in [1.0, 1.5, 2.5] {
            if let Some(run) = burst_after(servers, timers, lead * lead_s(timers)).await? {
                return Ok(run);
            }
            eprintln!("        the machine was not ready by the deadline; once more, with a later one");
        }
        anyhow::bail!("the machine is too slow for {timers} timers")
    };
    let runs = calibration.repeat(runs, run).await?;
    let what = format!("timers: {timers} due at one instant");
    Ok(Measurement { name: "timers".to_owned(), what, beside: "", runs })
}

async fn burst_after(servers: &Servers, timers: u32, lead_s: f64) -> Result<Option<Run>> {
    let stage = Stage::set(servers).await;
    let deadline = stage.after(lead_s).await?;
    let at = deadline.format(&Rfc3339)?;
    let arm = format!(
        "insert into timers (kind, subject, due_at, data)
         select 'flash', 't' || lpad(g::text, 7, '0'), '{at}', '{{\"seat\":7}}' from generate_series(1, {timers}) g"
    );
    stage.world.execute(&arm).await;
    stage.arm().await?;
    stage.world.execute("analyze timers").await;
    stage.settle_down().await?;
    let watched = stage.start(&["--only", "worker"], 1, "consuming").await?;
    if stage.is_before(deadline).await.is_err() {
        stage.stop(watched).await?;
        stage.world.close().await;
        return Ok(None);
    }
    tokio::time::sleep(Duration::try_from(deadline - stage.after(0.0).await?).unwrap_or_default()).await;
    stage.until("all have fired", ARMED, 0).await;
    let last: OffsetDateTime =
        sqlx::query_scalar("select max(fired_at) from timers").fetch_one(&stage.world.pool).await?;
    let cpu = stage.used(&watched)?;
    let rate = f64::from(timers) / (last - deadline).as_seconds_f64();
    let run = Run { rate: Some(rate), cpu: Some(cpu), lateness: Some(lateness(&stage).await?), ..Run::default() };
    stage.close(Some(watched)).await?;
    Ok(Some(run))
}

/// Due whenever, as the odd deadlines of orders.
pub(crate) async fn odd(
    servers: &Servers,
    calibration: &Calibration,
    per_second: u32,
    seconds: u32,
    runs: usize,
) -> Result<Measurement> {
    let run = async || {
        let stage = Stage::set(servers).await;
        let watched = stage.start_quietly(&["--only", "relay,worker"], "consuming").await?;
        let pool = limits::pool(&stage.world.database_url)?;
        let arm = "select overdue_arm('odd', 't' || g, clock_timestamp() + (3 + 27 * random()) * interval '1 second')
                   from generate_series($1, $2) g";
        paced(per_second, seconds, async |numbers| {
            sqlx::query(arm).bind(numbers.start as i32).bind(numbers.end as i32 - 1).execute(&pool).await?;
            Ok(())
        })
        .await?;
        let last: OffsetDateTime =
            sqlx::query_scalar("select max(due_at) from timers").fetch_one(&stage.world.pool).await?;
        tokio::time::sleep(Duration::try_from(last - stage.after(0.0).await?).unwrap_or_default()).await;
        stage.until("all have fired", ARMED, 0).await;
        let run = Run { lateness: Some(lateness(&stage).await?), cpu: Some(stage.used(&watched)?), ..Run::default() };
        pool.close().await;
        stage.close(Some(watched)).await?;
        Ok(run)
    };
    let runs = calibration.repeat(runs, run).await?;
    let what = format!("timers: {per_second}/s for {seconds} s, due uniformly after 3 to 30 s");
    Ok(Measurement { name: "timers_odd".to_owned(), what, beside: "", runs })
}

const ARMED: &str = "select count(*) from timers where state = 'armed'";

/// From the moment at which a timer was due to its firing.
async fn lateness(stage: &Stage) -> Result<Lateness> {
    let query = "select percentile_cont(0.5) within group (order by ms), percentile_cont(0.99) within group (order by ms), max(ms)
         from (select (extract(epoch from fired_at - due_at) * 1000)::float8 as ms from timers where state = 'fired') x";
    let (p50, p99, max) = sqlx::query_as(query).fetch_one(&stage.world.pool).await?;
    Ok(Lateness { p50_ms: p50, p99_ms: p99, max_ms: max })
}
