//! Claimed events, a message each.

use broker::{Event, Outgoing};
use order::{Deadline, OrderId, ParkReason};
use serde_json::value::RawValue;
use trace::TraceParent;

use crate::claim::{ClaimedEvent, Unsendable};
use crate::timeouts::Load;

/// The messages of these events, and rows that are none; `source` is what the events call their source.
pub(crate) fn loads(claimed: &[ClaimedEvent], source: &str) -> (Vec<Load>, Vec<Unsendable>) {
    let (mut loads, mut unsendable) = (Vec::with_capacity(claimed.len()), Vec::new());
    for event in claimed {
        match message(event, source) {
            Ok(message) => loads.push((vec![event.id], message)),
            Err((reason, detail)) => unsendable.push(Unsendable { row: event.id, reason, detail }),
        }
    }
    (loads, unsendable)
}

fn message(claimed: &ClaimedEvent, source: &str) -> Result<Outgoing, (ParkReason, String)> {
    let order = OrderId::new(&claimed.order_id).map_err(|error| (ParkReason::IllegalOrderId, error.to_string()))?;
    let data: &RawValue =
        serde_json::from_str(&claimed.data).map_err(|error| (ParkReason::NotJson, error.to_string()))?;
    let time = Deadline::at(claimed.due_at);
    let traceparent = claimed.traceparent.as_ref().and_then(|text| text.parse::<TraceParent>().ok());
    let traceparent = traceparent.as_ref();
    let (id, kind) = (claimed.event_id.as_str(), claimed.event.as_str());
    Ok(Event { id, source, kind, order: &order, time, data, traceparent }.into())
}
