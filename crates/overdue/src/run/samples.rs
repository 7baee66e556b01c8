//! Gauges that must be asked of the servers, and the state of the pools.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use book::{ParkedFilter, ParkedState, ParkedTable};
use broker::{Management, QueueState};
use database::{Client, PoolState, SqlxPool};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use relay::Backlog;
use tokio::time::timeout;

/// Asks the servers from time to time.
pub(super) struct Sampler {
    pub(super) pool: SqlxPool,
    pub(super) client: Client,
    /// With the virtual host.
    pub(super) management: Option<(Management, String)>,
}

/// The last answers, and the pools, as metrics.
#[derive(Clone, Default)]
pub(super) struct Samples {
    latest: Arc<Mutex<Latest>>,
    pools: Vec<(&'static str, PoolProbe)>,
}

/// `None` where a server did not answer: an old figure would look as if all were well.
#[derive(Default)]
struct Latest {
    backlog: Option<Backlog>,
    orders_past_deadline: Option<i64>,
    timers_past_due: Option<i64>,
    refunds_needing_person: Option<i64>,
    parked: Option<i64>,
    /// Empty also where the management API is not known.
    queues: Vec<QueueState>,
    failures: u64,
}

type PoolProbe = Arc<dyn Fn() -> PoolState + Send + Sync>;

type Labels = Vec<(&'static str, String)>;

/// How often the servers are asked.
const EVERY: Duration = Duration::from_secs(10);

impl Sampler {
    /// Works for ever.
    pub(super) async fn run(self, samples: Samples) {
        let mut ticks = tokio::time::interval(EVERY);
        let table = ParkedTable::new(self.client.clone());
        loop {
            ticks.tick().await;
            let backlog = in_time(async { relay::backlog(&mut *self.pool.get().await.ok()?).await.ok() }).await;
            let past = in_time(async { book::orders_past_deadline(&self.client).await.ok() }).await;
            let timers = in_time(async { book::timers_past_due(&self.client).await.ok() }).await;
            let refunds = in_time(async { book::refunds_needing_person(&self.client).await.ok() }).await;
            let held = async { table.count(&ParkedFilter::default(), ParkedState::Held).await.ok() };
            let parked = in_time(held).await.map(|(count, _)| count);
            let queues = match &self.management {
                None => Some(Vec::new()),
                Some((management, vhost)) => in_time(async { management.queues(vhost).await.ok() }).await,
            };
            let mut latest = samples.latest.lock().unwrap_or_else(PoisonError::into_inner);
            let of_database = [past, timers, refunds, parked];
            if backlog.is_none() || of_database.iter().any(Option::is_none) || queues.is_none() {
                latest.failures += 1;
            }
            (latest.backlog, latest.orders_past_deadline, latest.refunds_needing_person) = (backlog, past, refunds);
            (latest.timers_past_due, latest.parked) = (timers, parked);
            latest.queues = queues.unwrap_or_default();
            latest.queues.retain(|queue| queue.name.starts_with("overdue."));
        }
    }
}

/// A server may also be silent.
async fn in_time<T>(question: impl Future<Output = Option<T>>) -> Option<T> {
    timeout(EVERY, question).await.ok().flatten()
}

impl Samples {
    /// Shows this pool, too.
    pub(super) fn add_pool(&mut self, name: &'static str, state: impl Fn() -> PoolState + Send + Sync + 'static) {
        self.pools.push((name, Arc::new(state)));
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Samples")
    }
}

impl Collector for Samples {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.gauges("build_info", "The version of the program", &[(version, 1.0)])?;
        let mut pools = Vec::new();
        for (name, state) in &self.pools {
            let PoolState { open, idle, max, .. } = state();
            for (state, count) in [("used", open.saturating_sub(idle)), ("idle", idle), ("max", max)] {
                pools.push((vec![("pool", (*name).to_owned()), ("state", state.to_owned())], count as f64));
            }
        }
        let help = "Connections to the database: used, idle, and how many there may be";
        page.gauges("database_pool_connections", help, &pools)?;
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).encode(&mut page)
    }
}

impl Latest {
    fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("sample_failures", "Times that a server did not answer for these metrics", self.failures)?;
        if let Some(backlog) = self.backlog {
            let kind = |name: &str| vec![("kind", name.to_owned())];
            let rows = [(kind("timeout"), backlog.timeouts as f64), (kind("event"), backlog.events as f64)];
            page.gauges("outbox_rows", "Rows in the outbox, still to be sent", &rows)?;
            let help = "For how long the oldest row of the outbox has waited";
            page.gauge("outbox_oldest_age_seconds", help, backlog.oldest_age_s)?;
        }
        if let Some(orders) = self.orders_past_deadline {
            let help = "Orders that are pending although their deadline passed a minute ago or more";
            page.gauge("orders_past_deadline", help, orders as f64)?;
        }
        if let Some(timers) = self.timers_past_due {
            let help = "Timers that are armed although they were due a minute ago or more";
            page.gauge("timers_past_due", help, timers as f64)?;
        }
        if let Some(refunds) = self.refunds_needing_person {
            page.gauge("refunds_needing_person", "Refunds that cannot go on by themselves", refunds as f64)?;
        }
        if let Some(parked) = self.parked {
            page.gauge("parked_messages", "Messages that wait for a person", parked as f64)?;
        }
        if self.queues.is_empty() {
            return Ok(());
        }
        let of = |value: fn(&QueueState) -> u64| -> Vec<(Labels, f64)> {
            self.queues.iter().map(|queue| (vec![("queue", queue.name.clone())], value(queue) as f64)).collect()
        };
        page.gauges("queue_messages", "Messages in a queue", &of(|queue| queue.messages))?;
        page.gauges(
            "queue_letters_held",
            "Expired messages that a queue holds because their dead-lettering is not confirmed: in total, less ready and unacked",
            &of(QueueState::held),
        )?;
        page.gauges("queue_consumers", "Consumers of a queue", &of(|queue| queue.consumers))
    }
}

/// Where metrics are written, each with all its values.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn gauges(&mut self, name: &str, help: &str, values: &[(Labels, f64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}
