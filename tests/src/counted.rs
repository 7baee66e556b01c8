use worker::{OutcomeKind, WorkerMetrics};

/// What worker, sweep or passive close have counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the metrics")]
pub struct Counted {
    pub orders: u64,
    pub closed: u64,
    pub unchanged: u64,
    pub waiting: u64,
    pub retried: u64,
    pub gateway_held: u64,
    pub looked_at_again: u64,
    pub late: u64,
    pub paid: u64,
    pub batches: u64,
    pub messages: u64,
    pub parked: u64,
    pub early: u64,
    /// In memory until they are due.
    pub held_orders: i64,
    pub sent_on: u64,
    /// Times that a server was waited for.
    pub held: u64,
    pub consumers_open: i64,
    pub gateway_calls: u64,
    pub gateway_faults: u64,
    pub gateway_in_flight_max: i64,
    pub gateway_circuits_open: i64,
    pub refunded: u64,
    pub rescued: u64,
    pub moved: u64,
    pub passively_settled: u64,
    pub sweep_rounds: u64,
    pub stuck: i64,
}

impl Counted {
    /// By these metrics.
    #[must_use]
    pub fn by(metrics: &WorkerMetrics) -> Self {
        let of = |kind| metrics.orders(kind);
        Self {
            orders: metrics.orders_seen(),
            closed: of(OutcomeKind::Closed),
            unchanged: of(OutcomeKind::Unchanged),
            waiting: of(OutcomeKind::Waiting),
            retried: of(OutcomeKind::Retried),
            gateway_held: of(OutcomeKind::Held),
            looked_at_again: of(OutcomeKind::LookedAtAgain),
            late: of(OutcomeKind::LatePayment),
            paid: of(OutcomeKind::Paid),
            batches: metrics.batches.get(),
            messages: metrics.messages.get(),
            parked: metrics.parked.get(),
            early: metrics.early.get(),
            held_orders: metrics.held.get(),
            sent_on: metrics.sent_on.get(),
            held: metrics.waits.get(),
            consumers_open: metrics.consumers.get(),
            gateway_calls: metrics.gateway_calls.get(),
            gateway_faults: metrics.gateway_faults.get(),
            gateway_in_flight_max: metrics.gateway_calls_in_flight_max.get(),
            gateway_circuits_open: metrics.gateway_circuits_open.get(),
            refunded: metrics.refunds_arrived.get(),
            rescued: metrics.rescued.get(),
            moved: metrics.moved.get(),
            passively_settled: metrics.passively_settled.get(),
            sweep_rounds: metrics.sweep_rounds.get(),
            stuck: metrics.sweep_stuck_orders.get(),
        }
    }
}
