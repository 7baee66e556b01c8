use std::sync::Arc;
use std::time::Duration;

use database::SqlxPool;
use trace::Throttle;
use worker::{Gateways, Notifications, PassiveClose, SharedTimers};

use crate::health::Readiness;
use crate::metrics::Metrics;
use crate::replica::Replica;
use crate::token::Token;

/// What every process serves.
#[derive(Clone)]
pub struct Vitals {
    /// Whether the servers answer.
    pub readiness: Arc<Readiness>,
    /// The counters and gauges.
    pub metrics: Arc<Metrics>,
}

/// What the order service works with.
#[derive(Clone)]
pub struct OrderService {
    /// For creating and changing orders.
    pub pool: SqlxPool,
    /// For read-only requests; `None`: they go to the primary, too.
    pub replica: Option<Arc<Replica>>,
    /// For orders that are past their deadline.
    pub passive: PassiveClose,
    /// For timers that are to fire at once, and the kinds that are expected.
    pub timers: SharedTimers,
    /// For notifications of gateways.
    pub notifications: Notifications,
    /// The gateways at which new orders may be paid.
    pub gateways: Gateways,
    /// The bearer token that opens it; `None`: it is open to every client that can connect.
    pub token: Option<Token>,
    /// What is said again and again.
    pub warnings: Throttle,
}

/// How long a request waits for an order to be settled. It goes on by itself then.
pub(crate) const SETTLE_WAIT: Duration = Duration::from_secs(3);

impl OrderService {
    /// Whether an order may be paid at this gateway. `none` stands for no gateway.
    pub(crate) fn takes_payments_at(&self, gateway: &str) -> bool {
        gateway == "none" || self.gateways.names().iter().any(|name| name == gateway)
    }
}
