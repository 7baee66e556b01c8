//! One message that was set aside.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use book::{ParkedRow, ParkedTable};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{hex_dump, number, plain};
use crate::layout::{Layout, render};
use crate::text::{advice, fill};

#[derive(Template)]
#[template(path = "parked_message.html")]
struct MessagePage {
    l: Layout,
    message: Result<Option<Message>, String>,
    nothing: String,
    has_broker: bool,
}

struct Message {
    id: i64,
    reason: String,
    advice: &'static str,
    detail: String,
    orders: Vec<String>,
    more_orders: usize,
    routing_key: String,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
    times: i64,
    attempts: u32,
    history: Vec<String>,
    properties: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    text: String,
    hex: String,
    left_out: Option<String>,
    state: String,
    is_held: bool,
    is_dropped: bool,
    changed_at: Option<OffsetDateTime>,
    note: String,
}

/// So many bytes of a body are shown.
const BYTES_SHOWN: usize = 8 * 1024;

/// So many orders are linked.
const ORDERS_SHOWN: usize = 100;

pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Extension(ask): Extension<Ask>,
    Path(id): Path<String>,
) -> Response {
    let found = match id.parse::<i64>() {
        Ok(id) => ParkedTable::new(console.client.clone()).get(id).await.map_err(|error| error.to_string()),
        Err(_) => Ok(None),
    };
    let title = format!("{} {}", ask.texts().message, plain(&id));
    let l = Layout::new(&console, ask, &title).await.still();
    let nothing = fill(l.t.unknown_message, &[&plain(&id)]);
    let message = found.map(|found| found.map(|row| message(row, &l)));
    render(&MessagePage { message, nothing, has_broker: console.broker.is_some(), l })
}

fn message(row: ParkedRow, l: &Layout) -> Message {
    let parking = row.parking;
    let shown = &parking.body[..parking.body.len().min(BYTES_SHOWN)];
    let left_out = (shown.len() < parking.body.len())
        .then(|| fill(l.t.bytes_left_out, &[&number(shown.len() as u64), &number(parking.body.len() as u64)]));
    let by = plain(row.changed_by.as_deref().unwrap_or_default());
    let state = match row.state.as_str() {
        "requeued" => fill(l.t.m_requeued, &[&by]),
        "dropped" => fill(l.t.m_dropped, &[&by]),
        _ => l.t.m_held.to_owned(),
    };
    let mut orders = parking.orders;
    let more_orders = orders.len().saturating_sub(ORDERS_SHOWN);
    orders.truncate(ORDERS_SHOWN);
    Message {
        id: row.id,
        advice: advice(&parking.reason, l.ask.language),
        reason: plain(&parking.reason),
        detail: plain(parking.detail.as_deref().unwrap_or_default()),
        orders,
        more_orders,
        routing_key: plain(&parking.routing_key),
        first_at: parking.at,
        last_at: row.last_at,
        times: row.times,
        attempts: parking.attempts,
        history: parking.history.iter().map(|line| plain(line)).collect(),
        properties: pairs(&parking.properties),
        headers: pairs(&parking.headers),
        text: plain(&String::from_utf8_lossy(shown)),
        hex: hex_dump(shown),
        left_out,
        state,
        is_held: row.state == "held",
        is_dropped: row.state == "dropped",
        changed_at: row.changed_at,
        note: plain(row.note.as_deref().unwrap_or_default()),
    }
}

fn pairs(map: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    map.iter().map(|(name, value)| (plain(name), plain(&text(value)))).collect()
}
