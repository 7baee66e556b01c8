//! What flows steadily: orders that come and fall due, timeouts that go out.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::amqp::channel;
use crate::limits;
use crate::results::{Lateness, Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// Between two looks at the clock of whoever makes orders.
const TICK: Duration = Duration::from_millis(10);

/// So many orders a second for a while, each due ten seconds after its creation; beside it, the lateness of messages alone.
pub(crate) async fn steady(servers: &Servers, per_second: u32, seconds: u32) -> Result<Vec<Measurement>> {
    let stage = Stage::set(servers).await;
    stage.seed(Orders { armed: false, ..Orders::due_at(OffsetDateTime::now_utc(), 0) }).await?;
    let watched = stage.start(&["--only", "relay,worker"], 1, "consuming").await?;
    let pool = limits::pool(&stage.world.database_url)?;
    let begun = Instant::now();
    create(&pool, per_second, seconds).await?;
    let kept_up = begun.elapsed().as_secs_f64() / f64::from(seconds);
    let all = per_second * seconds;
    stage.settled(&watched, all.into()).await?;
    let cpu = stage.used(&watched)?;
    let mut run = Run { lateness: Some(stage.lateness("o").await?), cpu: Some(cpu), ..Run::default() };
    run.rate = Some(f64::from(per_second) / kept_up);
    pool.close().await;
    stage.close(Some(watched)).await?;
    let product = Measurement {
        name: "steady".to_owned(),
        what: format!("steady: {per_second} orders/s for {seconds} s, due after 10 s"),
        beside: "",
        runs: vec![run],
    };

    let alone = ttl_alone(servers, per_second, seconds.min(20)).await?;
    Ok(vec![product, alone])
}

/// As a shop does: order, items, reservation and outbox in one transaction.
async fn create(pool: &PgPool, per_second: u32, seconds: u32) -> Result<()> {
    let create = "with made as (
             insert into orders (id, amount_minor, currency, payment_deadline)
             select 'o' || lpad(g::text, 7, '0'), 1999, 'CNY', clock_timestamp() + interval '10 seconds' from generate_series($1::int, $2::int) g
             returning id, payment_deadline),
         items as (insert into order_items select id, 'sku-' || (substr(id, 2)::int % 1000), 1 from made),
         wanted as (select 'sku-' || (substr(id, 2)::int % 1000) as sku_id, count(*) as n from made group by 1),
         -- In the order of the SKUs, as everybody locks them.
         stock as materialized (
             select i.sku_id, n from inventory i join wanted on wanted.sku_id = i.sku_id order by i.sku_id for no key update of i),
         taken as (
             update inventory i set available = available - n, reserved = reserved + n from stock where stock.sku_id = i.sku_id),
         logged as (insert into order_log (order_id, to_status, reason, actor) select id, 'pending', 'created', 'bench' from made)
         insert into outbox (order_id, due_at) select id, payment_deadline from made";
    let begun = Instant::now();
    let all = per_second * seconds;
    let mut made = 0;
    while made < all {
        let due = ((begun.elapsed().as_secs_f64() * f64::from(per_second)) as u32).min(all);
        if due > made {
            sqlx::query(create).bind(made as i32 + 1).bind(due as i32).execute(pool).await?;
            made = due;
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// Messages with the same deadlines, through the same kind of lane to a consumer that only looks at the clock.
async fn ttl_alone(servers: &Servers, per_second: u32, seconds: u32) -> Result<Measurement> {
    let stage = Stage::set(servers).await;
    let late = Arc::new(Mutex::new(Vec::<f64>::new()));
    let seen = Arc::clone(&late);
    let all = per_second * seconds;
    let (_connection, channel) = channel(&stage.world.amqp_url).await?;
    let publishing = async {
        let begun = Instant::now();
        let mut sent = 0;
        while sent < all {
            let due = ((begun.elapsed().as_secs_f64() * f64::from(per_second)) as u32).min(all);
            let deadline = OffsetDateTime::now_utc() + Duration::from_secs(10);
            for _ in sent..due {
                let properties = BasicProperties::default().with_delivery_mode(2);
                let body = deadline.unix_timestamp_nanos().to_string();
                let options = BasicPublishOptions::default();
                channel
                    .basic_publish("overdue.delay".into(), "10s.payment".into(), options, body.as_bytes(), properties)
                    .await?;
            }
            sent = due;
            tokio::time::sleep(TICK).await;
        }
        anyhow::Ok(())
    };
    let due = ["overdue.v1.due.payment".to_owned()];
    let consuming = limits::consume(&stage, &due, all, move |body| {
        let deadline: Option<i128> = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
        if let (Some(deadline), Ok(mut late)) = (deadline, seen.lock()) {
            late.push((OffsetDateTime::now_utc().unix_timestamp_nanos() - deadline) as f64 / 1e6);
        }
    });
    futures_util::future::try_join(publishing, consuming).await?;
    let mut late = late.lock().map(|late| late.clone()).unwrap_or_default();
    late.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    let lateness = Lateness { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) };
    stage.world.close().await;
    Ok(Measurement {
        name: "ttl_alone".to_owned(),
        what: format!("message TTL alone: {per_second} messages/s, 10 s, a consumer that does nothing"),
        beside: "",
        runs: vec![Run { lateness: Some(lateness), ..Run::default() }],
    })
}

/// From the outbox to the confirm: orders due each at another time, a message each; and all at one, coalesced.
pub(crate) async fn relay(servers: &Servers, orders: u32, runs: usize) -> Result<Vec<Measurement>> {
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (gap, kept) in [(Duration::from_secs(1), &mut apart), (Duration::ZERO, &mut together)] {
            let stage = Stage::set(servers).await;
            let deadline = stage.after(1800.0).await?;
            let waiting = Orders { apart: gap, ..Orders::due_at(deadline, orders) };
            stage.seed(waiting).await?;
            stage.settle_down().await?;
            let watched = stage.start(&["--only", "relay"], 1, "running").await?;
            let begun = Instant::now();
            stage.until("the outbox is empty", "select count(*) from outbox", 0).await;
            let rate = f64::from(orders) / begun.elapsed().as_secs_f64();
            let mut run = Run { rate: Some(rate), cpu: Some(stage.used(&watched)?), ..Run::default() };
            stage.close(Some(watched)).await?;
            if gap > Duration::ZERO {
                let stage = Stage::set(servers).await;
                run.limit = Some(limits::publish(&stage, waiting, "1d", false, 1).await?);
                stage.world.close().await;
            }
            kept.push(run);
        }
    }
    Ok(vec![
        Measurement {
            name: "relay".to_owned(),
            what: format!("relay: {orders} orders of different deadlines, a message each"),
            beside: "bare confirmed publish",
            runs: apart,
        },
        Measurement {
            name: "relay_coalesced".to_owned(),
            what: format!("relay: {orders} orders of one deadline, 256 a message"),
            beside: "",
            runs: together,
        },
    ])
}
