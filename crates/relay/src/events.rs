//! Claimed events, a message each.

use broker::{Event, Outgoing};
use order::{Deadline, OrderId};
use serde_json::value::RawValue;
use trace::TraceParent;

use crate::claim::ClaimedEvent;
use crate::timeouts::Load;

/// The messages of these events; `source` is what they call their source.
pub(crate) fn loads(claimed: &[ClaimedEvent], source: &str) -> Vec<Load> {
    let load = |event: &ClaimedEvent| {
        let message = message(event, source);
        if message.is_none() {
            // The table's CHECKs keep such a row out. Should they be gone: the others must not suffer.
            tracing::error!(outbox_id = event.id, "a row of the outbox is no event; it stays");
        }
        Some((vec![event.id], message?))
    };
    claimed.iter().filter_map(load).collect()
}

fn message(claimed: &ClaimedEvent, source: &str) -> Option<Outgoing> {
    let order = OrderId::new(&claimed.order_id).ok()?;
    let data: &RawValue = serde_json::from_str(&claimed.data).ok()?;
    let time = Deadline::at(claimed.due_at);
    let traceparent = claimed.traceparent.as_ref().and_then(|text| text.parse::<TraceParent>().ok());
    let traceparent = traceparent.as_ref();
    let (id, kind) = (claimed.event_id.as_str(), claimed.event.as_str());
    Some(Event { id, source, kind, order: &order, time, data, traceparent }.into())
}
