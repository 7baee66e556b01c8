//! What flows steadily: orders that come and fall due, timeouts that go out.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::amqp::channel;
use crate::calibration::Calibration;
use crate::limits;
use crate::results::{Lateness, Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// Between two looks at the clock of whoever makes orders.
const TICK: Duration = Duration::from_millis(10);

/// In [`Run::more`]: how often an order was looked up.
pub(crate) const LOOKS: &str = "looks an order";

/// In [`Run::more`]: how often an order was sent, by the relay and from lane to lane.
pub(crate) const HOPS: &str = "hops an order";

/// In [`Run::more`]: of the program and both servers, for creating an order and all that follows.
pub(crate) const CPU: &str = "CPU µs an order";

/// Orders that come so many a second for a while.
#[derive(Clone)]
pub(crate) struct Flow {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) per_second: u32,
    pub(crate) seconds: u32,
    /// The deadline of each, in SQL.
    pub(crate) due: String,
}

impl Flow {
    /// Each due ten seconds after its creation.
    pub(crate) fn steady(per_second: u32, seconds: u32) -> Self {
        let what = format!("steady: {per_second} orders/s for {seconds} s, due after 10 s");
        Self { name: "steady", what, per_second, seconds, due: "clock_timestamp() + interval '10 seconds'".to_owned() }
    }

    /// Due whenever.
    pub(crate) fn odd(per_second: u32, seconds: u32) -> Self {
        let what = format!("odd deadlines: {per_second} orders/s for {seconds} s, due uniformly after 3 to 30 s");
        let due = "clock_timestamp() + (3 + 27 * random()) * interval '1 second'".to_owned();
        Self { name: "odd", what, per_second, seconds, due }
    }

    /// All due at one clock time, when the last of them has come.
    pub(crate) fn clock_time(per_second: u32, seconds: u32) -> Self {
        let what = format!("one clock time: {per_second} orders/s for {seconds} s, all due at its end");
        Self { name: "clock_time", what, per_second, seconds, due: "$CLOCK_TIME".to_owned() }
    }

    pub(crate) async fn measure(
        &self,
        servers: &Servers,
        calibration: &Calibration,
        runs: usize,
    ) -> Result<Measurement> {
        let runs = calibration.repeat(runs, async || self.run(servers).await).await?;
        Ok(Measurement { name: self.name.to_owned(), what: self.what.clone(), beside: "", runs })
    }

    async fn run(&self, servers: &Servers) -> Result<Run> {
        let stage = Stage::set(servers).await;
        stage.seed(Orders { armed: false, ..Orders::due_at(OffsetDateTime::now_utc(), 0) }).await?;
        let arguments = ["--only", "relay,worker", "--listen", "127.0.0.1:0"];
        let watched = stage.start_quietly(&arguments, "consuming").await?;
        let pool = limits::pool(&stage.world.database_url)?;
        let begun = Instant::now();
        self.create(&stage, &pool).await?;
        let kept_up = begun.elapsed().as_secs_f64() / f64::from(self.seconds);
        let all = self.per_second * self.seconds;
        self.closed(&stage).await?;
        let cpu = stage.used(&watched)?;
        let told = watched.metrics().await?;
        let mut run = Run { lateness: Some(stage.lateness("o").await?), cpu: Some(cpu), ..Run::default() };
        run.rate = Some(f64::from(self.per_second) / kept_up);
        let each = |total: f64| total / f64::from(all);
        run.more.insert(LOOKS, each(told.sum("overdue_orders_total")));
        run.more.insert(HOPS, each(told.sum("overdue_relay_orders_total") + told.sum("overdue_sent_on_total")));
        run.more.insert(CPU, each(cpu.total()) * 1e6);
        pool.close().await;
        stage.close(Some(watched)).await?;
        Ok(run)
    }

    /// Waits until all are closed, and asks for that only when the last is due: the question costs CPU time, too.
    async fn closed(&self, stage: &Stage) -> Result<()> {
        let last: OffsetDateTime =
            sqlx::query_scalar("select max(payment_deadline) from orders").fetch_one(&stage.world.pool).await?;
        let remaining = last - stage.after(0.0).await?;
        tokio::time::sleep(Duration::try_from(remaining).unwrap_or_default()).await;
        stage.until("all are closed", "select count(*) from orders where status = 'pending'", 0).await;
        Ok(())
    }

    /// As a shop does: order, items, reservation and outbox in one transaction.
    async fn create(&self, stage: &Stage, pool: &PgPool) -> Result<()> {
        let end = stage.after(f64::from(self.seconds)).await?;
        let due = self.due.replace("$CLOCK_TIME", &format!("timestamptz '{end}'"));
        let create = creating(&due, "insert into outbox (order_id, due_at) select id, payment_deadline from made");
        paced(self.per_second, self.seconds, async |numbers| {
            let statement = sqlx::query(sqlx::AssertSqlSafe(create.as_str()));
            statement.bind(numbers.start as i32).bind(numbers.end as i32 - 1).execute(pool).await?;
            Ok(())
        })
        .await
    }
}

/// Has so many made a second, numbered from 1, as far as their time has come.
pub(crate) async fn paced(
    per_second: u32,
    seconds: u32,
    mut make: impl AsyncFnMut(Range<u32>) -> Result<()>,
) -> Result<()> {
    let (begun, all) = (Instant::now(), per_second * seconds);
    let mut made = 0;
    while made < all {
        let due = ((begun.elapsed().as_secs_f64() * f64::from(per_second)) as u32).min(all);
        if due > made {
            make(made + 1..due + 1).await?;
            made = due;
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// Creates the orders `$1` to `$2`, with this deadline, in one statement that ends with `last`; they are `made`.
pub(crate) fn creating(due: &str, last: &str) -> String {
    format!(
        "with made as (
             insert into orders (id, amount_minor, currency, payment_deadline)
             select 'o' || lpad(g::text, 7, '0'), 1999, 'CNY', {due} from generate_series($1::int, $2::int) g
             returning id, payment_deadline),
         items as (insert into order_items select id, 'sku-' || (substr(id, 2)::int % 1000), 1 from made),
         wanted as (select 'sku-' || (substr(id, 2)::int % 1000) as sku_id, count(*) as n from made group by 1),
         -- In the order of the SKUs, as everybody locks them.
         stock as materialized (
             select i.sku_id, n from inventory i join wanted on wanted.sku_id = i.sku_id order by i.sku_id for no key update of i),
         taken as (
             update inventory i set available = available - n, reserved = reserved + n from stock where stock.sku_id = i.sku_id),
         logged as (insert into order_log (order_id, to_status, reason, actor) select id, 'pending', 'created', 'bench' from made)
         {last}"
    )
}

/// In [`Run::more`]: from the start of a relay that was down to the close of the last order that is late for it.
pub(crate) const LAST_LATE: &str = "last late order after s";

/// In [`Run::more`]: how many orders were overdue when the relay came back.
pub(crate) const OVERDUE: &str = "overdue by then";

/// Orders come for a while, each due after ten seconds, while no relay runs. Then one does.
pub(crate) async fn catch_up(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    per_second: u32,
    seconds: u32,
) -> Result<Measurement> {
    let flow = Flow::steady(per_second, seconds);
    let run = async || {
        let stage = Stage::set(servers).await;
        stage.seed(Orders { armed: false, ..Orders::due_at(OffsetDateTime::now_utc(), 0) }).await?;
        let watched = stage.start_quietly(&["--only", "worker"], "consuming").await?;
        let pool = limits::pool(&stage.world.database_url)?;
        flow.create(&stage, &pool).await?;
        let overdue = "select count(*) from orders where payment_deadline < clock_timestamp()";
        let overdue = stage.world.number(overdue).await as f64;
        let back = stage.after(0.0).await?;
        let relay = stage.start_quietly(&["--only", "relay"], "running").await?;
        stage.until("all are closed", "select count(*) from orders where status = 'pending'", 0).await;
        // Some milliseconds late is on time.
        let last = "select max(closed_at) from orders where closed_at > payment_deadline + interval '250 milliseconds'";
        let last: OffsetDateTime = sqlx::query_scalar(last).fetch_one(&stage.world.pool).await?;
        let mut run = Run { lateness: Some(stage.lateness("o").await?), ..Run::default() };
        run.more.insert(LAST_LATE, (last - back).as_seconds_f64());
        run.more.insert(OVERDUE, overdue);
        pool.close().await;
        stage.stop(relay).await?;
        stage.close(Some(watched)).await?;
        Ok(run)
    };
    Ok(Measurement {
        name: "catch_up".to_owned(),
        what: format!("relay down for {seconds} s, {per_second} orders/s, due after 10 s"),
        beside: "",
        runs: calibration.repeat(runs, run).await?,
    })
}

/// Messages with the same deadlines, through the same kind of lane to a consumer that only looks at the clock.
pub(crate) async fn ttl_alone(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    per_second: u32,
    seconds: u32,
) -> Result<Measurement> {
    let run = async || Ok(Run { lateness: Some(ttl(servers, per_second, seconds).await?), ..Run::default() });
    Ok(Measurement {
        name: "ttl_alone".to_owned(),
        what: format!("message TTL alone: {per_second} messages/s, 10 s, a consumer that does nothing"),
        beside: "",
        runs: calibration.repeat(runs, run).await?,
    })
}

async fn ttl(servers: &Servers, per_second: u32, seconds: u32) -> Result<Lateness> {
    let stage = Stage::set(servers).await;
    let late = Arc::new(Mutex::new(Vec::<f64>::new()));
    let seen = Arc::clone(&late);
    let all = per_second * seconds;
    let (_connection, channel) = channel(&stage.world.amqp_url).await?;
    let publishing = paced(per_second, seconds, async |numbers| {
        let deadline = OffsetDateTime::now_utc() + Duration::from_secs(10);
        for _ in numbers {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let body = deadline.unix_timestamp_nanos().to_string();
            let options = BasicPublishOptions::default();
            channel
                .basic_publish("overdue.lanes".into(), "10s.payment".into(), options, body.as_bytes(), properties)
                .await?;
        }
        Ok(())
    });
    let due = ["overdue.v1.due.payment".to_owned()];
    let consuming = limits::consume(&stage, &due, all, move |body| {
        let deadline: Option<i128> = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
        if let (Some(deadline), Ok(mut late)) = (deadline, seen.lock()) {
            late.push((OffsetDateTime::now_utc().unix_timestamp_nanos() - deadline) as f64 / 1e6);
        }
    });
    futures_util::future::try_join(publishing, consuming).await?;
    stage.world.close().await;
    let late = late.lock().map(|late| late.clone()).unwrap_or_default();
    Ok(Lateness::of(late))
}

/// From the outbox to the confirm: orders due each at another time, a message each; and all at one, coalesced.
pub(crate) async fn relay(
    servers: &Servers,
    calibration: &Calibration,
    runs: usize,
    orders: u32,
) -> Result<Vec<Measurement>> {
    let run = async |gap: Duration| {
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
        Ok(run)
    };
    let apart = calibration.repeat(runs, async || run(Duration::from_secs(2)).await).await?;
    let together = calibration.repeat(runs, async || run(Duration::ZERO).await).await?;
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
