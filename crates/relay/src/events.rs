//! Claimed events, a message each.

use std::borrow::Cow;

use broker::{Event, Outgoing};
use order::{Deadline, OrderId, ParkReason};
use serde::Deserialize;
use serde_json::value::RawValue;
use trace::TraceParent;

use crate::claim::{ClaimedEvent, Unsendable};
use crate::timeouts::Load;
use crate::trail::Told;

/// In the place of an event's type: the row has a list of events.
const BATCH: &str = "batch";

/// An event of a batch, as `announce.sql` writes it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    order_id: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The messages of these events, and rows that are none; `source` is what the events call their source.
pub(crate) fn loads(claimed: &[ClaimedEvent], source: &str, is_told: bool) -> (Vec<Load>, Vec<Unsendable>) {
    let (mut loads, mut unsendable) = (Vec::with_capacity(claimed.len()), Vec::new());
    for row in claimed {
        let mut told = Vec::new();
        match messages(row, source, is_told.then_some(&mut told)) {
            Ok(messages) => loads.push(Load { rows: vec![row.id], messages, told }),
            Err((reason, detail)) => unsendable.push(Unsendable { row: row.id, reason, detail }),
        }
    }
    (loads, unsendable)
}

fn messages(
    row: &ClaimedEvent,
    source: &str,
    mut told: Option<&mut Vec<Told>>,
) -> Result<Vec<Outgoing>, (ParkReason, String)> {
    let not_json = |error: serde_json::Error| (ParkReason::NotJson, error.to_string());
    let traceparent = row.traceparent.as_ref().and_then(|text| text.parse::<TraceParent>().ok());
    let mut message = |kind: &str, id: &str, order: &str, time, data: &RawValue| {
        if let Some(told) = told.as_deref_mut() {
            told.push((order.to_owned(), kind.to_owned()));
        }
        let order = OrderId::new(order).map_err(|error| (ParkReason::IllegalOrderId, error.to_string()))?;
        Ok(Event { id, source, kind, subject: &order, time, data, traceparent: traceparent.as_ref() }.into())
    };
    if row.event != BATCH {
        let data = serde_json::from_str(&row.data).map_err(not_json)?;
        return Ok(vec![message(&row.event, &row.event_id, &row.order_id, Deadline::at(row.due_at), data)?]);
    }
    let entries: Vec<Entry<'_>> = serde_json::from_str(&row.data).map_err(not_json)?;
    let mut message = |entry: &Entry<'_>| {
        let time = entry.time.parse().map_err(|error: order::BadDeadline| (ParkReason::NotJson, error.to_string()))?;
        message(&entry.event, &entry.id, &entry.order_id, time, entry.data)
    };
    entries.iter().map(&mut message).collect()
}
