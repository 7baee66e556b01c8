//! One line about all that a process has done.

use relay::RelayMetrics;
use worker::{OutcomeKind, WorkerMetrics};

/// What relay and worker have done since the start.
pub(super) fn line(relay: Option<&RelayMetrics>, worker: Option<&WorkerMetrics>) -> String {
    let parts = [relay.map(relay_line), worker.map(worker_line)];
    parts.into_iter().flatten().collect::<Vec<String>>().join("; ")
}

fn relay_line(relay: &RelayMetrics) -> String {
    format!(
        "relay sent {} orders and {} events in {} messages, {} failures",
        relay.orders.get(),
        relay.events.get(),
        relay.messages.get(),
        relay.failures.get()
    )
}

fn worker_line(worker: &WorkerMetrics) -> String {
    let (orders, batches) = (worker.orders_seen(), worker.batches.get());
    let of = |kind| worker.orders(kind);
    let mut line = format!(
        "worker settled {orders} orders in {batches} batches ({} a batch): {} closed, {} unchanged, {} early, {} parked; {} waits for a server; at most {} ms late",
        orders.checked_div(batches).unwrap_or(0),
        of(OutcomeKind::Closed),
        of(OutcomeKind::Unchanged),
        of(OutcomeKind::Waiting),
        worker.parked.get(),
        worker.waits.get(),
        worker.close_lateness_max().as_millis()
    );
    let (rescued, stuck, passive) =
        (worker.rescued.get(), worker.sweep_stuck_orders.get(), worker.passively_settled.get());
    if rescued + passive > 0 || stuck > 0 {
        line += &format!("; {rescued} rescued by the sweep, {stuck} stuck, {passive} settled because a client looked");
    }
    let (fired, timers_rescued) = (worker.timers(OutcomeKind::Fired), worker.timers_rescued.get());
    if fired > 0 {
        line += &format!("; {fired} timers fired, {timers_rescued} of them found by the sweep");
    }
    let (handed_over, calls) = (of(OutcomeKind::HandedOver), worker.gateway_calls.get());
    let (held, refunded) = (of(OutcomeKind::Held), worker.refunds_arrived.get());
    if handed_over + calls + held + refunded > 0 {
        line += &format!(
            "; gateways: {calls} calls, {} without an answer, at most {} at a time; {} orders found paid, {} asked again, {held} held; {} payments too late, {refunded} refunds arrived; {} kinds of calls suspended",
            worker.gateway_faults.get(),
            worker.gateway_calls_in_flight_max.get(),
            of(OutcomeKind::Paid),
            of(OutcomeKind::Retried),
            of(OutcomeKind::LatePayment),
            worker.gateway_circuits_open.get()
        );
    }
    line
}
