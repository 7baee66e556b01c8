use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels = [(&'static str, String); 2];
type Label = [(&'static str, String); 1];

/// What the role webhooks has done since its start. Copies count together.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    deliveries: Family<Labels, Counter>,
    circuits: Family<Label, Gauge>,
    stopped: Family<Label, Gauge>,
    /// From the attempt's begin to its end, in seconds.
    took: Family<Label, Histogram, fn() -> Histogram>,
}

/// How a delivery can end, as the label `outcome` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryOutcome {
    /// The receiver has it.
    Delivered,
    /// It is tried again later.
    Retried,
    /// It was to find out whether an endpoint is back, which is not.
    Probed,
    /// It is parked: the attempts are used up.
    Exhausted,
    /// It is parked: the receiver will never take it.
    Refused,
    /// The receiver wants nothing more.
    Gone,
}

impl DeliveryOutcome {
    const ALL: [Self; 6] = [Self::Delivered, Self::Retried, Self::Probed, Self::Exhausted, Self::Refused, Self::Gone];

    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Probed => "probed",
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        const BUCKETS_S: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
        Self {
            deliveries: Family::default(),
            circuits: Family::default(),
            stopped: Family::default(),
            took: Family::new_with_constructor(|| Histogram::new(BUCKETS_S)),
        }
    }
}

impl WebhookMetrics {
    /// Adds them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Deliveries to endpoints, by their outcome";
        registry.register("webhook_deliveries", help, self.deliveries.clone());
        let help = "Whether an endpoint is sent nothing but a probe now and then: 1 or 0";
        registry.register("webhook_circuit_open", help, self.circuits.clone());
        let help = "Whether an endpoint is stopped until an operator says go on: 1 or 0";
        registry.register("webhook_endpoint_stopped", help, self.stopped.clone());
        let help = "How long attempts to deliver took";
        registry.register_with_unit("webhook_attempt_duration", help, Unit::Seconds, self.took.clone());
    }

    /// Shows this endpoint from the first, as zero.
    pub(crate) fn show(&self, endpoint: &str) {
        for outcome in DeliveryOutcome::ALL {
            drop(self.deliveries.get_or_create(&labels(endpoint, outcome)));
        }
        self.circuit(endpoint, false);
        self.stopped(endpoint, false);
    }

    pub(crate) fn count(&self, endpoint: &str, outcome: DeliveryOutcome) {
        self.deliveries.get_or_create(&labels(endpoint, outcome)).inc();
    }

    pub(crate) fn took(&self, endpoint: &str, took: Duration) {
        self.took.get_or_create(&label(endpoint)).observe(took.as_secs_f64());
    }

    pub(crate) fn circuit(&self, endpoint: &str, is_open: bool) {
        self.circuits.get_or_create(&label(endpoint)).set(i64::from(is_open));
    }

    pub(crate) fn stopped(&self, endpoint: &str, is_stopped: bool) {
        self.stopped.get_or_create(&label(endpoint)).set(i64::from(is_stopped));
    }
}

fn label(endpoint: &str) -> Label {
    [("endpoint", endpoint.to_owned())]
}

fn labels(endpoint: &str, outcome: DeliveryOutcome) -> Labels {
    [("endpoint", endpoint.to_owned()), ("outcome", outcome.as_str().to_owned())]
}
