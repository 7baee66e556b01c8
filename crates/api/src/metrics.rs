//! What is counted, in the text form of OpenMetrics, with the names and units of Prometheus' conventions.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use broker::QueueState;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use publisher::{Backlog, RelayCounters};
use worker::WorkerCounters;

use crate::{Problem, Vitals};

/// The metrics of a process.
pub struct Metrics(Registry);

/// Where the values come from.
#[derive(Default)]
pub struct Sources {
    /// What worker, sweep and passive closing have counted.
    pub worker: Option<Arc<WorkerCounters>>,
    /// What the relay has counted.
    pub relay: Option<Arc<RelayCounters>>,
    /// What is looked up now and then.
    pub samples: Arc<Mutex<Samples>>,
    /// How the pools stand, by what they are for.
    pub pools: Vec<(&'static str, PoolProbe)>,
    /// The version of the program.
    pub version: &'static str,
}

/// Looks how a pool of connections stands.
pub type PoolProbe = Box<dyn Fn() -> PoolState + Send + Sync>;

/// How a pool of connections stands.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// Connections that there are.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// How many there may be.
    pub max: usize,
}

/// What has to be asked of the servers.
#[derive(Debug, Default)]
pub struct Samples {
    /// The outbox.
    pub backlog: Option<Backlog>,
    /// Orders that are pending although their deadline passed a minute ago or more.
    pub past_deadline: Option<i64>,
    /// Refunds that cannot go on by themselves.
    pub refunds_needing_person: Option<i64>,
    /// The queues; empty where the management API is not known.
    pub queues: Vec<QueueState>,
    /// Looks that came to nothing.
    pub failures: u64,
}

impl Metrics {
    /// The metrics that these sources give.
    #[must_use]
    pub fn of(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("overdue");
        registry.register_collector(Box::new(All(sources)));
        Self(registry)
    }

    fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.0)?;
        Ok(page)
    }
}

/// The metrics, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(vitals): State<Vitals>) -> Response {
    match vitals.metrics.render() {
        Ok(page) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page).into_response()
        }
        Err(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-metrics", "the metrics cannot be written")
            .into_response(),
    }
}

struct All(Sources);

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("All")
    }
}

type Label = (&'static str, String);

/// A metric with all its values, each with its labels.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters(&mut self, name: &str, help: &str, values: &[(Vec<Label>, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges(&mut self, name: &str, help: &str, values: &[(Vec<Label>, f64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let version = vec![("version", self.0.version.to_owned())];
        page.gauges("build_info", "The version of the program", &[(version, 1.0)])?;
        if let Some(counters) = &self.0.worker {
            worker_page(&mut page, counters)?;
        }
        if let Some(relay) = &self.0.relay {
            relay_page(&mut page, relay)?;
        }
        self.pools_page(&mut page)?;
        let samples = self.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples_page(&mut page, &samples)
    }
}

impl All {
    fn pools_page(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut values = Vec::new();
        for (name, state) in &self.0.pools {
            let PoolState { open, idle, max } = state();
            for (state, count) in [("used", open.saturating_sub(idle)), ("idle", idle), ("max", max)] {
                values.push((vec![("pool", (*name).to_owned()), ("state", state.to_owned())], count as f64));
            }
        }
        page.gauges(
            "database_pool_connections",
            "Connections to the database: used, idle, and how many there may be",
            &values,
        )
    }
}

fn worker_page(page: &mut Page<'_>, counters: &WorkerCounters) -> fmt::Result {
    let now = counters.read();
    let lateness = "From the deadline of an order to its close, by the database's clock";
    let metric = page.0.encode_descriptor("close_lateness_seconds", lateness, None, MetricType::Histogram)?;
    counters.lateness.encode(metric)?;
    let metric = page.0.encode_descriptor("batch_orders", "Orders in a batch", None, MetricType::Histogram)?;
    counters.batch_orders.encode(metric)?;
    let outcomes = [
        ("closed", now.closed),
        ("paid", now.paid),
        ("late_payment", now.late),
        ("unchanged", now.unchanged),
        ("waiting", now.waiting),
        ("handed_over", now.handed_over),
        ("retried", now.retried),
        ("held", now.gateway_held),
        ("looked_at_again", now.looked_at_again),
    ];
    let outcomes = outcomes.map(|(name, count)| (vec![("outcome", name.to_owned())], count));
    page.counters("orders", "Orders that were looked at, by what became of them", &outcomes)?;
    page.counter("messages", "Messages that were acked", now.messages)?;
    page.counter("batches", "Batches that were acked", now.batches)?;
    page.counter(
        "attempts_in_vain",
        "Attempts at an order that came to nothing and are made again later",
        now.retried + now.looked_at_again,
    )?;
    page.counter("parked", "Messages, or parts of them, that were set aside for a person", now.parked)?;
    page.counter("rescued", "Orders that the sweep has settled: no message brought them in time", now.rescued)?;
    page.counter(
        "passively_settled",
        "Orders that were settled because somebody looked at them",
        now.passively_settled,
    )?;
    page.counter("waits", "Times that a server that is away was waited for", now.held)?;
    page.counter("gateway_calls", "Calls to payment gateways", now.gateway_calls)?;
    page.counter(
        "gateway_faults",
        "Calls to payment gateways that gave no answer that could be used",
        now.gateway_faults,
    )?;
    page.gauge(
        "gateway_calls_in_flight",
        "Calls to payment gateways that are under way",
        counters.gateway_in_flight() as f64,
    )?;
    page.gauge(
        "gateway_circuits_open",
        "Kinds of calls to payment gateways that are not made but for a probe now and then",
        now.gateway_circuits_open as f64,
    )?;
    page.counter("refunds_arrived", "Refunds of late payments that have arrived", now.refunded)?;
    page.gauge("consumers", "Subscriptions to queues that are open", now.consumers_open as f64)?;
    page.gauge("sweep_leader", "Whether this process sweeps", now.sweep_leader as f64)?;
    page.counter("sweep_rounds", "Rounds that the sweep has finished", now.sweep_rounds)?;
    page.gauge(
        "sweep_stuck_orders",
        "Orders past their deadline that the sweep could not settle at its last round",
        now.stuck as f64,
    )
}

fn relay_page(page: &mut Page<'_>, relay: &RelayCounters) -> fmt::Result {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    page.counter("relay_orders", "Orders whose timeout the broker has confirmed", read(&relay.orders))?;
    page.counter("relay_events", "Events that the broker has confirmed", read(&relay.events))?;
    page.counter("relay_messages", "Messages that the broker has confirmed", read(&relay.messages))?;
    page.counter("relay_failures", "Messages that were not confirmed, or came back", read(&relay.failures))
}

fn samples_page(page: &mut Page<'_>, samples: &Samples) -> fmt::Result {
    page.counter("sample_failures", "Looks at the servers for these metrics that came to nothing", samples.failures)?;
    if let Some(backlog) = samples.backlog {
        let kind = |name: &str| vec![("kind", name.to_owned())];
        let rows = [(kind("timeout"), backlog.timeouts as f64), (kind("event"), backlog.events as f64)];
        page.gauges("outbox_rows", "Rows in the outbox, still to be sent", &rows)?;
        page.gauge(
            "outbox_oldest_age_seconds",
            "For how long the oldest row of the outbox has waited",
            backlog.oldest_age_s,
        )?;
    }
    if let Some(orders) = samples.past_deadline {
        page.gauge(
            "orders_past_deadline",
            "Orders that are pending although their deadline passed a minute ago or more",
            orders as f64,
        )?;
    }
    if let Some(refunds) = samples.refunds_needing_person {
        page.gauge("refunds_needing_person", "Refunds that cannot go on by themselves", refunds as f64)?;
    }
    if samples.queues.is_empty() {
        return Ok(());
    }
    let of = |value: fn(&QueueState) -> u64| -> Vec<(Vec<Label>, f64)> {
        samples.queues.iter().map(|queue| (vec![("queue", queue.name.clone())], value(queue) as f64)).collect()
    };
    page.gauges("queue_messages", "Messages in a queue", &of(|queue| queue.messages))?;
    page.gauges(
        "queue_letters_held",
        "Expired messages that a queue holds because nobody has confirmed them: in total, less ready and unacked",
        &of(QueueState::held),
    )?;
    page.gauges("queue_consumers", "Consumers of a queue", &of(|queue| queue.consumers))
}
