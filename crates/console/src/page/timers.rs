//! Timers: those that fire next, and those of a subject.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use order::TimerState;
use outbox::{Timer, TimerFilter};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::plain;
use crate::layout::{Layout, render};
use crate::page::ROWS;
use crate::text::fill;

#[derive(Template)]
#[template(path = "timers.html")]
struct TimersPage {
    l: Layout,
    heading: String,
    subject: String,
    kind: String,
    rows: Result<Vec<Row>, String>,
}

struct Row {
    id: String,
    kind: String,
    subject: String,
    state: &'static str,
    is_armed: bool,
    is_overdue: bool,
    due_at: OffsetDateTime,
    changed_at: OffsetDateTime,
    revision: i64,
    data: String,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let (subject, kind) = (ask.query.get("subject").to_owned(), ask.query.get("kind").to_owned());
    let wanted = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    // All that there is of a subject; else what is armed.
    let state = subject.is_empty().then_some(TimerState::Armed);
    let filter = TimerFilter { subject: wanted(&subject), kind: wanted(&kind), state };
    let rows = match console.pool.get().await {
        Ok(mut connection) => {
            let found = outbox::timers(&mut connection, &filter, usize::try_from(ROWS).unwrap_or(usize::MAX)).await;
            found.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let title = ask.texts().timers;
    let l = Layout::new(&console, ask, title).await.still();
    let rows = rows.map(|rows| rows.into_iter().map(|timer| row(timer, &l)).collect());
    let heading = match subject.as_str() {
        "" => l.t.timers_help.to_owned(),
        subject => fill(l.t.timers_of, &[&plain(subject)]),
    };
    render(&TimersPage { heading, subject, kind, rows, l })
}

fn row(timer: Timer, l: &Layout) -> Row {
    let state = match timer.state {
        TimerState::Armed => l.t.t_armed,
        TimerState::Fired => l.t.t_fired,
        TimerState::Cancelled => l.t.t_cancelled,
    };
    let is_armed = timer.state == TimerState::Armed;
    Row {
        id: timer.id.to_string(),
        kind: timer.id.kind().to_owned(),
        subject: timer.id.subject().to_owned(),
        state,
        is_armed,
        is_overdue: is_armed && timer.due_at < l.now,
        due_at: timer.due_at,
        changed_at: timer.changed_at,
        revision: timer.revision,
        data: plain(&timer.data.unwrap_or_default().chars().take(500).collect::<String>()),
    }
}
