//! What each scheduler is put through.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::alternatives::arming::{Armed, Client};
use crate::alternatives::redis_server::RedisServer;
use crate::alternatives::scheduler::Kind;
use crate::flows::{creating, paced};
use crate::results::{Lateness, Run};
use crate::servers::{Cpu, Servers};
use crate::stage::{Orders, Stage, Watched};

/// A scheduler with a database and a virtual host of its own.
pub(crate) struct Contest<'a> {
    /// `None`: Overdue itself.
    kind: Option<Kind>,
    stage: Stage,
    redis: &'a RedisServer,
    running: Option<Watched>,
}

/// How much of everything.
#[derive(Clone, Copy)]
pub(crate) struct Amounts {
    pub(crate) burst: u32,
    pub(crate) killed: u32,
    pub(crate) seconds: u32,
}

const PER_SECOND: u32 = 300;

/// Clients that arm one order after the other.
const CLIENTS: usize = 32;
const ARMING_FOR: Duration = Duration::from_secs(2);

/// When nothing has been closed for so long, what is left stays left.
const QUIET: Duration = Duration::from_secs(3);

/// One in so many orders is paid while the others are closed.
const PAID_ONE_IN: u32 = 20;

const PENDING: &str = "select count(*) from orders where status = 'pending'";

const WRONG_STOCK: &str = "
    select count(*) from inventory i
    where reserved <> (select coalesce(sum(quantity), 0) from order_items t join orders o on o.id = t.order_id
                       where t.sku_id = i.sku_id and o.status = 'pending')";

/// As a shop books a payment. Stock in the order of the SKUs, as everybody locks it.
const PAY: &str = "
    with paid as (update orders set status = 'paid', paid_at = clock_timestamp() where id = $1 and status = 'pending' returning id),
         stock as materialized (
             select i.sku_id, t.quantity from inventory i join order_items t on t.sku_id = i.sku_id join paid on paid.id = t.order_id
             order by i.sku_id for no key update of i),
         sold as (update inventory i set reserved = reserved - stock.quantity from stock where stock.sku_id = i.sku_id)
    select id from paid";

impl<'a> Contest<'a> {
    async fn set(kind: Option<Kind>, servers: &Servers, redis: &'a RedisServer) -> Result<Self> {
        redis.empty().await?;
        Ok(Self { kind, stage: Stage::set(servers).await, redis, running: None })
    }

    async fn start(&mut self) -> Result<()> {
        let watched = match self.kind {
            None => self.stage.start_quietly(&["--only", "relay,worker"], "consuming").await?,
            Some(kind) => {
                let world = &self.stage.world;
                let mut command = tokio::process::Command::new(std::env::current_exe()?);
                let kind = kind.to_possible_value().context("each has a name")?;
                command.args(["alternative", kind.get_name(), "--database-url", &world.database_url]);
                command.args(["--amqp-url", &world.amqp_url, "--redis-url", &self.redis.url]);
                self.stage.watch(vec![world.start_command(command)], "ing").await?
            }
        };
        self.running = Some(watched);
        Ok(())
    }

    /// As a crash does.
    async fn kill(&mut self) {
        for process in self.running.take().into_iter().flat_map(|watched| watched.processes) {
            process.kill().await;
        }
    }

    /// Where it listens, for those that do.
    fn port(&self) -> Option<u16> {
        let log = self.running.as_ref()?.processes.first()?.log_text();
        log.split("remembering at ").nth(1)?.trim().parse().ok()
    }

    async fn client(&self) -> Result<Client> {
        Client::connect(self.kind, &self.stage, self.redis, self.port()).await
    }

    async fn end(mut self) {
        self.kill().await;
        self.stage.world.close().await;
    }

    fn cpu(&self) -> Result<Cpu> {
        let own = self.running.iter().flat_map(|watched| watched.processes.iter().map(tests::Process::id));
        let ids: Vec<u32> = own.chain((self.kind == Some(Kind::Redis)).then(|| self.redis.id())).collect();
        let cpu = self.stage.servers.cpu(&ids)?;
        // A broker that is not needed would not be there.
        let broker = if matches!(self.kind, None | Some(Kind::TtlQueue)) { cpu.broker } else { 0.0 };
        Ok(Cpu { broker, ..cpu })
    }

    /// Waits until nothing is pending, or nothing more is closed. Returns how many are left, and when the last was closed.
    async fn finished(&self) -> Result<(i64, OffsetDateTime)> {
        let (mut left, mut since) = (i64::MAX, Instant::now());
        loop {
            let pending = self.stage.world.number(PENDING).await;
            if pending < left {
                (left, since) = (pending, Instant::now());
            }
            if left == 0 || since.elapsed() > QUIET {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let last = "select coalesce(max(closed_at), '2000-01-01Z') from orders";
        Ok((left, sqlx::query_scalar(last).fetch_one(&self.stage.world.pool).await?))
    }

    /// Orders of one instant, all armed before it.
    async fn ready_for(&mut self, count: u32) -> Result<OffsetDateTime> {
        let deadline = self.stage.after(4.0 + f64::from(count) / 4_000.0).await?;
        let orders = Orders { armed: false, ..Orders::due_at(deadline, count) };
        self.stage.seed(orders).await?;
        self.start().await?;
        let at_ms = (deadline.unix_timestamp_nanos() / 1_000_000) as i64;
        let all: Vec<Armed> = (1..=count).map(|number| (orders.id(number), at_ms)).collect();
        let mut client = self.client().await?;
        for some in all.chunks(1_000) {
            client.arm(some).await?;
        }
        self.stage.until("the outbox is empty", "select count(*) from outbox where event is null", 0).await;
        self.stage.settle_down().await?;
        self.stage.is_before(deadline).await?;
        Ok(deadline)
    }

    async fn until_due(&self, deadline: OffsetDateTime) -> Result<()> {
        let remaining = deadline - self.stage.after(0.0).await?;
        tokio::time::sleep(Duration::try_from(remaining).unwrap_or_default()).await;
        Ok(())
    }
}

/// All of it once; what it came to, by name.
pub(crate) async fn run(kind: Option<Kind>, servers: &Servers, redis: &RedisServer, amounts: Amounts) -> Result<Run> {
    let mut run = Run::default();
    let more = &mut run.more;
    if kind != Some(Kind::Scan) {
        more.insert("arming/s", arming(kind, servers, redis).await?);
    }
    run.rate = Some(burst(kind, servers, redis, amounts.burst, more).await?);
    let (lateness, cpu_us) = flow(kind, servers, redis, amounts.seconds, "interval '3 seconds'").await?;
    run.lateness = Some(lateness);
    more.insert("CPU µs an order", cpu_us);
    let odd = "(2 + 4 * random()) * interval '1 second'";
    let (odd, _) = flow(kind, servers, redis, amounts.seconds, odd).await?;
    more.insert("odd deadlines p50 ms", odd.p50_ms);
    more.insert("odd deadlines p99 ms", odd.p99_ms);
    killed(kind, servers, redis, amounts.killed, more).await?;
    down(kind, servers, redis, amounts.seconds, more).await?;
    Ok(run)
}

/// How many orders a second many clients arm, one after the other each.
async fn arming(kind: Option<Kind>, servers: &Servers, redis: &RedisServer) -> Result<f64> {
    let mut contest = Contest::set(kind, servers, redis).await?;
    contest.start().await?;
    let (made, begun) = (AtomicU64::new(0), Instant::now());
    let at_ms = (contest.stage.after(1800.0).await?.unix_timestamp_nanos() / 1_000_000) as i64;
    let client = async || {
        let mut client = contest.client().await?;
        while begun.elapsed() < ARMING_FOR {
            client.arm(&[(format!("o-{}", made.fetch_add(1, Ordering::Relaxed)), at_ms)]).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..CLIENTS).map(|_| client())).await?;
    let rate = made.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    contest.end().await;
    Ok(rate)
}

/// Orders closed a second, while some are paid.
async fn burst(
    kind: Option<Kind>,
    servers: &Servers,
    redis: &RedisServer,
    count: u32,
    more: &mut BTreeMap<&'static str, f64>,
) -> Result<f64> {
    let mut contest = Contest::set(kind, servers, redis).await?;
    let deadline = contest.ready_for(count).await?;
    contest.until_due(deadline).await?;
    let pay = async {
        let mut connection = PgConnection::connect(&contest.stage.world.database_url).await?;
        let mut paid = Vec::new();
        let orders = Orders::due_at(deadline, count);
        for number in (1..=count).rev().step_by(PAID_ONE_IN as usize) {
            let order: Option<String> =
                sqlx::query_scalar(PAY).bind(orders.id(number)).fetch_optional(&mut connection).await?;
            paid.extend(order);
        }
        anyhow::Ok(paid)
    };
    let (paid, finished) = futures_util::future::join(pay, contest.finished()).await;
    let (paid, (left, last)) = (paid?, finished?);
    let swallowed: i64 = sqlx::query_scalar("select count(*) from orders where id = any ($1) and status <> 'paid'")
        .bind(&paid)
        .fetch_one(&contest.stage.world.pool)
        .await?;
    more.insert("paid meanwhile", paid.len() as f64);
    more.insert("of these not paid any more", swallowed as f64);
    more.insert("SKUs with wrong stock", contest.stage.world.number(WRONG_STOCK).await as f64);
    contest.end().await;
    Ok((f64::from(count) - paid.len() as f64 - left as f64) / (last - deadline).as_seconds_f64())
}

/// Orders that come and fall due; their lateness and the CPU time of each in microseconds, its creation included.
async fn flow(
    kind: Option<Kind>,
    servers: &Servers,
    redis: &RedisServer,
    seconds: u32,
    due_after: &str,
) -> Result<(Lateness, f64)> {
    let mut contest = Contest::set(kind, servers, redis).await?;
    contest.start().await?;
    contest.stock().await?;
    let before = contest.cpu()?;
    let mut client = Some(contest.client().await?);
    contest.orders_come(seconds, due_after, &mut client).await?;
    let last: OffsetDateTime =
        sqlx::query_scalar("select max(payment_deadline) from orders").fetch_one(&contest.stage.world.pool).await?;
    contest.until_due(last).await?;
    contest.finished().await?;
    let cpu = contest.cpu()?.since(before).total() / f64::from(PER_SECOND * seconds) * 1e6;
    let lateness = contest.stage.lateness("o").await?;
    contest.end().await;
    Ok((lateness, cpu))
}

/// Kills it when a quarter is closed, and starts it again.
async fn killed(
    kind: Option<Kind>,
    servers: &Servers,
    redis: &RedisServer,
    count: u32,
    more: &mut BTreeMap<&'static str, f64>,
) -> Result<()> {
    let mut contest = Contest::set(kind, servers, redis).await?;
    // As many as keep it busy for long enough to be killed at a quarter.
    let count = if kind.is_none() { count * 8 } else { count };
    let deadline = contest.ready_for(count).await?;
    contest.until_due(deadline).await?;
    while contest.stage.world.number(PENDING).await > i64::from(count - count / 4) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    contest.kill().await;
    let at_kill = contest.stage.world.number(PENDING).await;
    contest.start().await?;
    let (left, _) = contest.finished().await?;
    more.insert("pending at kill -9", at_kill as f64);
    more.insert("left after kill -9", left as f64);
    contest.end().await;
    Ok(())
}

/// Nothing of it runs while orders come and fall due. Then it does.
async fn down(
    kind: Option<Kind>,
    servers: &Servers,
    redis: &RedisServer,
    seconds: u32,
    more: &mut BTreeMap<&'static str, f64>,
) -> Result<()> {
    let mut contest = Contest::set(kind, servers, redis).await?;
    contest.stock().await?;
    // Where nobody is there to be told, nobody is told.
    let mut client = contest.client().await.ok();
    contest.orders_come(seconds, "interval '1 second'", &mut client).await?;
    let back = contest.stage.after(0.0).await?;
    contest.start().await?;
    let (left, last) = contest.finished().await?;
    more.insert("left after downtime", left as f64);
    if left == 0 {
        more.insert("caught up after s", (last - back).as_seconds_f64());
    }
    contest.end().await;
    Ok(())
}

impl Contest<'_> {
    async fn stock(&self) -> Result<()> {
        self.stage.seed(Orders { armed: false, ..Orders::due_at(OffsetDateTime::now_utc(), 0) }).await
    }

    /// As a shop creates them: all of an order in a transaction, then the scheduler is told. Overdue is told in the same.
    async fn orders_come(&self, seconds: u32, due_after: &str, client: &mut Option<Client>) -> Result<()> {
        let due = format!("clock_timestamp() + {due_after}");
        let last = match self.kind {
            None => {
                "insert into outbox (order_id, due_at) select id, payment_deadline from made returning order_id, 0::bigint"
            }
            Some(_) => "select id, (extract(epoch from payment_deadline) * 1000)::bigint from made",
        };
        let create = creating(&due, last);
        let pool = &self.stage.world.pool;
        paced(PER_SECOND, seconds, async |numbers| {
            let statement = sqlx::query_as(sqlx::AssertSqlSafe(create.as_str()));
            let made: Vec<Armed> =
                statement.bind(numbers.start as i32).bind(numbers.end as i32 - 1).fetch_all(pool).await?;
            match client {
                Some(client) if self.kind.is_some() => client.arm(&made).await,
                _ => Ok(()),
            }
        })
        .await
        .context("creating orders")
    }
}
