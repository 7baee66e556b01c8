//! Who is at work.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{ProcessRow, Processes};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{duration, number};
use crate::layout::{Layout, render};

#[derive(Template)]
#[template(path = "processes.html")]
struct ProcessesPage {
    l: Layout,
    rows: Vec<Row>,
    rescued: Result<Vec<(OffsetDateTime, String)>, String>,
}

struct Row {
    id: String,
    host: String,
    pid: u32,
    version: String,
    roles: String,
    up: String,
    seen_at: OffsetDateTime,
    is_silent: bool,
    leads: bool,
    held: String,
    counters: String,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().processes;
    let rescued = Processes::new(console.client.clone()).rescued_by_hour().await;
    let rescued = rescued.map_err(|error| error.to_string());
    let l = Layout::new(&console, ask, title).await;
    let rows = l.snapshot.books.value().map_or_else(Vec::new, |books| books.processes.iter().map(row).collect());
    let rescued = rescued.map(|hours| hours.into_iter().map(|(hour, count)| (hour, number(count))).collect());
    render(&ProcessesPage { rows, rescued, l })
}

fn row(process: &ProcessRow) -> Row {
    let said = &process.said;
    let counters: Vec<String> = said
        .counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {}", number(*count)))
        .collect();
    Row {
        id: said.id.clone(),
        host: said.host.clone(),
        pid: said.pid,
        version: said.version.clone(),
        roles: said.roles.join(", "),
        up: duration(process.up_for),
        seen_at: process.seen_at,
        is_silent: process.is_silent(),
        leads: said.sweep_leader && !process.is_silent(),
        held: number(said.held_orders),
        counters: if counters.is_empty() { "–".to_owned() } else { counters.join(" · ") },
    }
}
