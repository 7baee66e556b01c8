//! A database and a virtual host for one run, with orders in them and the program at work on them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::AssertSqlSafe;
use tests::{Process, World, until_none_is_left};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::amqp::channel;
use crate::results::Lateness;
use crate::servers::{Cpu, Servers};

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) servers: Servers,
}

/// Orders as a shop has them: two items each, the stock reserved, the creation in the log.
#[derive(Clone, Copy)]
pub(crate) struct Orders<'a> {
    /// IDs are this and a number.
    pub(crate) prefix: &'a str,
    pub(crate) count: u32,
    /// Over how many SKUs their items are spread.
    pub(crate) skus: u32,
    /// Whether the first item of each is of one and the same SKU.
    pub(crate) hot: bool,
    /// So many of a hundred are paid already.
    pub(crate) paid_percent: u32,
    pub(crate) deadline: OffsetDateTime,
    /// How far apart their deadlines are.
    pub(crate) apart: Duration,
    /// Whether their timeouts stand in the outbox.
    pub(crate) armed: bool,
}

impl<'a> Orders<'a> {
    /// So many that are due at one instant.
    pub(crate) fn due_at(deadline: OffsetDateTime, count: u32) -> Orders<'a> {
        let (apart, armed) = (Duration::ZERO, true);
        Orders { prefix: "o", count, skus: 1000, hot: false, paid_percent: 0, deadline, apart, armed }
    }

    pub(crate) fn id(&self, number: u32) -> String {
        format!("{}{number:07}", self.prefix)
    }
}

/// A process of the program, and since when it is looked at.
pub(crate) struct Watched {
    pub(crate) processes: Vec<Process>,
    before: Cpu,
    /// Orders that were settled to warm up.
    settled_before: u64,
}

/// What a process tells of itself over HTTP.
pub(crate) struct Told(String);

impl Told {
    /// The sum of a metric over its labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit_once(' ')?.1.parse::<f64>().ok()
        });
        values.sum()
    }
}

impl Watched {
    /// The metrics of its first process, which was started with `--listen`.
    pub(crate) async fn metrics(&self) -> Result<Told> {
        let base = self.processes[0].http_base().await;
        Ok(Told(reqwest::get(format!("{base}/metrics")).await?.text().await?))
    }
}

/// How many orders a round of the warm-up has.
const WARM_UP: u32 = 50;

impl Stage {
    pub(crate) async fn set(servers: &Servers) -> Self {
        Self { world: World::new().await, servers: servers.clone() }
    }

    /// The same with lanes that are spread over so many queues.
    pub(crate) async fn spread(servers: &Servers, shards: u16) -> Self {
        let mut stage = Self::set(servers).await;
        stage.world.spread(shards).await;
        stage
    }

    /// So long from now, by the database's clock.
    pub(crate) async fn after(&self, seconds: f64) -> Result<OffsetDateTime> {
        let at = sqlx::query_scalar("select clock_timestamp() + $1 * interval '1 second'");
        Ok(at.bind(seconds).fetch_one(&self.world.pool).await?)
    }

    /// Writes orders in bulk, past the foreign keys, whose checks would take longer than all else.
    pub(crate) async fn seed(&self, orders: Orders<'_>) -> Result<()> {
        let Orders { prefix, count, skus, hot, paid_percent, deadline, apart, armed } = orders;
        let deadline = deadline.format(&Rfc3339)?;
        let apart = apart.as_secs_f64();
        let first = if hot { "'hot'".to_owned() } else { format!("'sku-' || (g::bigint * 7919 % {skus})") };
        let outbox = if armed {
            format!(
                "insert into outbox (order_id, due_at)
                     select '{prefix}' || lpad(g::text, 7, '0'), timestamptz '{deadline}' + g * {apart} * interval '1 second'
                     from generate_series(1, {count}) g where g % 100 >= {paid_percent};"
            )
        } else {
            String::new()
        };
        let statements = format!(
            "set session_replication_role = replica;
             insert into inventory select 'sku-' || s, 1000000000, 0 from generate_series(0, {skus} - 1) s
                 union all select 'hot', 1000000000, 0 on conflict do nothing;
             create temporary table seeded on commit drop as
                 select g, '{prefix}' || lpad(g::text, 7, '0') as id, g % 100 < {paid_percent} as is_paid,
                        timestamptz '{deadline}' + g * {apart} * interval '1 second' as due
                 from generate_series(1, {count}) g;
             insert into orders (id, status, amount_minor, currency, payment_deadline, paid_at)
                 select id, case when is_paid then 'paid' else 'pending' end, 1999, 'CNY', due, case when is_paid then clock_timestamp() end
                 from seeded;
             insert into order_items select id, {first}, 1 + g % 3 from seeded;
             insert into order_items select id, 'sku-' || ((g::bigint * 104729 + 1) % {skus}), 2 from seeded on conflict do nothing;
             insert into order_log (order_id, to_status, reason, actor) select id, 'pending', 'created', 'bench' from seeded;
             {outbox}
             update inventory i set reserved = reserved + taken.quantity, available = available - taken.quantity
                 from (select sku_id, sum(quantity) as quantity from order_items join seeded on seeded.id = order_id
                       where not is_paid group by sku_id) taken
                 where taken.sku_id = i.sku_id;
             set session_replication_role = origin;"
        );
        let mut transaction = self.world.pool.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await.context("seeding")?;
        transaction.commit().await?;
        Ok(())
    }

    /// What a database does now and then, so that it does not do it in the middle of a run.
    pub(crate) async fn settle_down(&self) -> Result<()> {
        for statement in
            ["vacuum (analyze) orders", "vacuum (analyze) order_items", "vacuum (analyze) inventory", "checkpoint"]
        {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.world.pool).await?;
        }
        Ok(())
    }

    /// Sends what is in the outbox to the lanes, and returns how long that took.
    pub(crate) async fn arm(&self) -> Result<Duration> {
        let begun = std::time::Instant::now();
        let mut relay = self.world.start(&["run", "--only", "relay"]);
        self.until("the outbox is empty", "select count(*) from outbox where event is null", 0).await;
        let took = begun.elapsed();
        relay.terminate().await;
        relay.ended().await;
        Ok(took)
    }

    /// Fails unless there is still time.
    pub(crate) async fn is_before(&self, deadline: OffsetDateTime) -> Result<()> {
        let remaining = deadline - self.after(0.0).await?;
        ensure!(remaining.is_positive(), "it took longer to get ready than was reckoned with: {remaining}");
        Ok(())
    }

    /// Starts the program with these arguments, so often, and waits until it is at work.
    pub(crate) async fn start(&self, arguments: &[&str], processes: usize, says: &str) -> Result<Watched> {
        self.start_with(&[&["--report-every", "20ms"], arguments].concat(), processes, says, &[]).await
    }

    /// A process that reports no more often than usual: for what lasts longer than a burst.
    pub(crate) async fn start_quietly(&self, arguments: &[&str], says: &str) -> Result<Watched> {
        self.start_with(arguments, 1, says, &[]).await
    }

    /// The same with these environment variables.
    pub(crate) async fn start_with(
        &self,
        arguments: &[&str],
        processes: usize,
        says: &str,
        environment: &[(&str, String)],
    ) -> Result<Watched> {
        let all = [&["run"], arguments].concat();
        let start = |_| {
            let mut command = self.world.command(&all);
            command.envs(environment.iter().map(|(name, value)| (*name, value)));
            self.world.start_command(command)
        };
        self.watch((0..processes).map(start).collect(), says).await
    }

    /// Waits until the broker has written down what it was sent: until it idles for a second, for a minute at most.
    pub(crate) async fn broker_idles(&self) -> Result<()> {
        let mut before = self.servers.cpu(&[])?;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.servers.cpu(&[])?;
            if now.since(before).broker < 0.1 {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Waits until these processes are at work.
    pub(crate) async fn watch(&self, processes: Vec<Process>, says: &str) -> Result<Watched> {
        for process in &processes {
            process.says(says).await;
        }
        let mut watched = Watched { processes, before: Cpu::default(), settled_before: 0 };
        watched.before = self.cpu(&watched)?;
        Ok(watched)
    }

    /// Has workers settle some orders in messages of their own: what is measured is a worker that has been at work for a while.
    pub(crate) async fn warm_up(&self, watched: &mut Watched) -> Result<()> {
        const ROUNDS: u32 = 4;
        let deadline = self.after(-1.0).await?;
        let begun = deadline.unix_timestamp();
        let (_connection, channel) = channel(&self.world.amqp_url).await?;
        let shards = self.world.lanes.shards();
        for round in 0..ROUNDS {
            let prefix = format!("warm{begun}-{round}-");
            let orders = Orders { prefix: &prefix, armed: false, ..Orders::due_at(deadline, WARM_UP) };
            self.seed(orders).await?;
            for number in 1..=WARM_UP {
                let body = orders.id(number);
                let key = format!("now.payment{}", shards.of(&body));
                let (options, properties) = (Default::default(), Default::default());
                let exchange = "overdue.due".into();
                channel.basic_publish(exchange, key.into(), options, body.as_bytes(), properties).await?.await?;
            }
            watched.settled_before += u64::from(WARM_UP);
            self.settled(watched, 0).await?;
        }
        watched.before = self.cpu(watched)?;
        Ok(())
    }

    fn cpu(&self, watched: &Watched) -> Result<Cpu> {
        let ids: Vec<u32> = watched.processes.iter().map(Process::id).collect();
        self.servers.cpu(&ids)
    }

    /// CPU seconds since the start.
    pub(crate) fn used(&self, watched: &Watched) -> Result<Cpu> {
        Ok(self.cpu(watched)?.since(watched.before))
    }

    /// Waits until the processes have settled so many orders among them, in addition to those of the warm-up, and returns when that was.
    pub(crate) async fn settled(&self, watched: &Watched, orders: u64) -> Result<OffsetDateTime> {
        let mut last = OffsetDateTime::UNIX_EPOCH;
        let wanted = orders + watched.settled_before;
        until_none_is_left(&format!("{orders} orders are settled"), async || {
            let told: Vec<(u64, OffsetDateTime)> =
                watched.processes.iter().filter_map(|p| last_told(&p.log_text())).collect();
            last = told.iter().map(|(_, at)| *at).max().unwrap_or(last);
            wanted.saturating_sub(told.iter().map(|(settled, _)| settled).sum())
        })
        .await;
        Ok(last)
    }

    /// Waits until a query gives this number.
    pub(crate) async fn until(&self, what: &str, query: &str, number: i64) {
        until_none_is_left(what, async || self.world.number(query).await.abs_diff(number)).await;
    }

    /// From deadline to close, of the orders with this prefix.
    pub(crate) async fn lateness(&self, prefix: &str) -> Result<Lateness> {
        let query = "select percentile_cont(0.5) within group (order by ms), percentile_cont(0.99) within group (order by ms), max(ms)
             from (select (extract(epoch from closed_at - payment_deadline) * 1000)::float8 as ms from orders where status = 'closed' and id like $1 || '%') x";
        let (p50, p99, max) = sqlx::query_as(query).bind(prefix).fetch_one(&self.world.pool).await?;
        Ok(Lateness { p50_ms: p50, p99_ms: p99, max_ms: max })
    }

    pub(crate) async fn stop(&self, watched: Watched) -> Result<()> {
        for mut process in watched.processes {
            process.terminate().await;
            let status = process.ended().await;
            ensure!(status.success(), "the program ended with {status}:\n{}", process.log_text());
        }
        Ok(())
    }

    /// Stops the processes and looks at the books: a run that is not clean has no figure.
    pub(crate) async fn close(self, watched: Option<Watched>) -> Result<()> {
        if let Some(watched) = watched {
            self.stop(watched).await?;
        }
        let audit = self.world.look_at_the_books().await;
        ensure!(audit.clean, "the books are not clean: {audit:#?}");
        self.world.close().await;
        Ok(())
    }
}

/// How many orders the last line of a log calls settled, and when it was written.
fn last_told(log: &str) -> Option<(u64, OffsetDateTime)> {
    let line = log.lines().rev().find(|line| line.contains("worker settled "))?;
    let settled = line.split("worker settled ").nth(1)?.split(' ').next()?.parse().ok()?;
    Some((settled, OffsetDateTime::parse(line.split_whitespace().next()?, &Rfc3339).ok()?))
}
