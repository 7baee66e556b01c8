//! Many orders that fall due at one instant.

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::calibration::Calibration;
use crate::limits;
use crate::results::{Measurement, Run};
use crate::servers::Servers;
use crate::stage::{Orders, Stage};

/// Of all CPU time that overdue, broker and database used between them.
pub(crate) const SHARE: &str = "overdue's share of the CPU %";

/// A flash sale's end.
#[derive(Clone)]
pub(crate) struct Burst {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) orders: u32,
    pub(crate) hot: bool,
    pub(crate) paid_percent: u32,
    /// Whether orders, items and log are hash-partitioned.
    pub(crate) partitioned: bool,
    pub(crate) workers: usize,
    pub(crate) pipelines: usize,
    /// Whether a relay sends the events meanwhile.
    pub(crate) relay: bool,
    /// Whether the orders are overdue already when the worker starts.
    pub(crate) cold: bool,
    pub(crate) beside: Beside,
    pub(crate) runs: usize,
}

/// What stands beside the figure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// The settle statement alone.
    Settle,
    /// The load query alone.
    Load,
}

impl Burst {
    pub(crate) fn of(orders: u32, runs: usize) -> Self {
        Self {
            name: "burst".to_owned(),
            what: format!("burst: {orders} orders due at one instant, 1,000 SKUs"),
            orders,
            hot: false,
            paid_percent: 0,
            partitioned: false,
            workers: 1,
            pipelines: limits::CONNECTIONS,
            relay: false,
            cold: false,
            beside: Beside::Settle,
            runs,
        }
    }

    pub(crate) async fn measure(&self, servers: &Servers, calibration: &Calibration) -> Result<Measurement> {
        let run = async || {
            let mut run = if self.cold { self.cold(servers).await? } else { self.run(servers).await? };
            run.limit = match self.beside {
                Beside::Nothing => None,
                Beside::Settle => Some(self.limit(servers, Beside::Settle).await?),
                Beside::Load => Some(self.limit(servers, Beside::Load).await?),
            };
            Ok(run)
        };
        let runs = calibration.repeat(self.runs, run).await?;
        let beside = match self.beside {
            Beside::Nothing => "",
            Beside::Settle => "the settle statement in a loop",
            Beside::Load => "the load query in a loop",
        };
        Ok(Measurement { name: self.name.clone(), what: self.what.clone(), beside, runs })
    }

    async fn stage(&self, servers: &Servers) -> Result<Stage> {
        let stage = Stage::set(servers).await;
        if self.partitioned {
            stage.world.execute(include_str!("../../docs/partitioned-tables.sql")).await;
        }
        Ok(stage)
    }

    fn seed(&self, deadline: OffsetDateTime) -> Orders<'static> {
        Orders { hot: self.hot, paid_percent: self.paid_percent, ..Orders::due_at(deadline, self.orders) }
    }

    /// The product at work.
    async fn run(&self, servers: &Servers) -> Result<Run> {
        for lead in [1.0, 1.5, 2.5] {
            if let Some(run) = self.run_after(servers, lead * lead_s(self.orders)).await? {
                return Ok(run);
            }
            eprintln!("        the machine was not ready by the deadline; once more, with a later one");
        }
        anyhow::bail!("the machine is too slow for {} orders", self.orders)
    }

    /// A worker starts, and all is due already. Its time counts from the moment at which it consumes.
    async fn cold(&self, servers: &Servers) -> Result<Run> {
        let stage = self.stage(servers).await?;
        stage.seed(self.seed(stage.after(-1.0).await?)).await?;
        stage.arm().await?;
        stage.settle_down().await?;
        let watched =
            stage.start(&["--only", "worker", "--pipelines", &self.pipelines.to_string()], 1, "consuming").await?;
        let log = watched.processes[0].log_text();
        let line = log.lines().find(|line| line.contains("consuming")).context("it consumes")?;
        let begun = OffsetDateTime::parse(line.split_whitespace().next().unwrap_or_default(), &Rfc3339)?;
        let done = stage.settled(&watched, self.orders.into()).await?;
        let rate = f64::from(self.orders) / (done - begun).as_seconds_f64();
        let run = Run { rate: Some(rate), cpu: Some(stage.used(&watched)?), ..Run::default() };
        stage.close(Some(watched)).await?;
        Ok(run)
    }

    /// `None`: it took longer than this to get ready.
    async fn run_after(&self, servers: &Servers, lead_s: f64) -> Result<Option<Run>> {
        let stage = self.stage(servers).await?;
        let deadline = stage.after(lead_s).await?;
        // Paid orders were armed like all others: the outbox does not know what has happened since.
        stage.seed(Orders { armed: false, ..self.seed(deadline) }).await?;
        stage
            .world
            .execute("insert into outbox (order_id, due_at) select id, payment_deadline from orders order by id")
            .await;
        stage.arm().await?;
        stage.settle_down().await?;

        let only = if self.relay { "relay,worker" } else { "worker" };
        let pipelines = self.pipelines.to_string();
        let mut watched = stage.start(&["--only", only, "--pipelines", &pipelines], self.workers, "consuming").await?;
        stage.warm_up(&mut watched).await?;
        if stage.is_before(deadline).await.is_err() {
            stage.stop(watched).await?;
            stage.world.close().await;
            return Ok(None);
        }
        let done = stage.settled(&watched, self.orders.into()).await?;
        let cpu = stage.used(&watched)?;
        let rate = f64::from(self.orders) / (done - deadline).as_seconds_f64();
        let mut run = Run { rate: Some(rate), cpu: Some(cpu), ..Run::default() };
        run.lateness = Some(stage.lateness("o").await?);
        let hot = "select (100 * n_tup_hot_upd / greatest(n_tup_upd, 1))::bigint from pg_stat_user_tables where relname = 'inventory'";
        run.more.insert("HOT updates of stock %", stage.world.number(hot).await as f64);
        let size = "select sum(pg_total_relation_size(relid))::bigint from pg_stat_user_tables where relname similar to '(orders|order_items|order_log|idempotency_keys)%'";
        run.more.insert("database B/order", stage.world.number(size).await as f64 / f64::from(self.orders));
        run.more.insert(SHARE, cpu.overdue / cpu.total() * 100.0);
        if self.relay {
            stage.until("the events are sent", "select count(*) from outbox", 0).await;
            let sent = stage.after(0.0).await? - deadline;
            run.more.insert("events sent after s", sent.as_seconds_f64());
        }
        stage.close(Some(watched)).await?;
        Ok(Some(run))
    }

    /// The same orders, overdue already, closed by the bare statement.
    async fn limit(&self, servers: &Servers, beside: Beside) -> Result<f64> {
        let stage = self.stage(servers).await?;
        let orders = Orders { armed: false, ..self.seed(stage.after(-1.0).await?) };
        stage.seed(orders).await?;
        stage.settle_down().await?;
        let rate = if beside == Beside::Load {
            limits::load(&stage, orders).await?
        } else {
            limits::settle(&stage, orders).await?
        };
        if beside == Beside::Load {
            stage.world.close().await;
        } else {
            stage.close(None).await?;
        }
        Ok(rate)
    }
}

/// How long seeding and arming take, reckoned generously.
pub(crate) fn lead_s(orders: u32) -> f64 {
    6.0 + f64::from(orders) / 16_000.0
}
