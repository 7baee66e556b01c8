//! What operators did.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{ActionRow, OperatorActions};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::plain;
use crate::layout::{Layout, render};
use crate::page::ROWS;

#[derive(Template)]
#[template(path = "actions.html")]
struct ActionsPage {
    l: Layout,
    rows: Result<Vec<Row>, String>,
    next: Option<String>,
}

struct Row {
    id: i64,
    at: OffsetDateTime,
    who: String,
    address: String,
    action: String,
    subject: String,
    tone: &'static str,
    state: &'static str,
    note: String,
    before: String,
    after: String,
    progress: Option<(i64, i64)>,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let before = ask.query.optional("before").and_then(|before| before.parse().ok()).unwrap_or(i64::MAX);
    let rows = OperatorActions::new(console.client.clone()).page(before, ROWS).await;
    let title = ask.texts().actions;
    let l = Layout::new(&console, ask, title).await;
    let last = rows.as_ref().ok().filter(|rows| rows.len() as i64 == ROWS).and_then(|rows| rows.last());
    let next = last.map(|last| l.link(&format!("/console/actions?before={}", last.id)));
    let rows: Result<Vec<Row>, String> =
        rows.map(|rows| rows.into_iter().map(|action| row(action, &l)).collect()).map_err(|error| error.to_string());
    render(&ActionsPage { rows, next, l })
}

fn row(action: ActionRow, l: &Layout) -> Row {
    let (tone, state) = l.action_state(&action);
    let told = |text: &Option<String>| plain(text.as_deref().unwrap_or_default());
    Row {
        id: action.id,
        at: action.at,
        who: format!("{} ({})", plain(&action.action.operator), action.action.role),
        address: told(&action.action.address),
        action: action.action.action.clone(),
        subject: plain(&action.action.subject),
        tone,
        state,
        note: told(&action.action.note),
        before: told(&action.action.before),
        after: told(&action.after),
        progress: action.action.total.map(|total| (action.handled.min(total), total)),
    }
}
