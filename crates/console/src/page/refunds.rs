//! Money that goes back, and money that needs a person.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{BookError, RefundRecord, Refunds};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{encode, money, plain};
use crate::layout::{Layout, render};
use crate::page::ROWS;

#[derive(Template)]
#[template(path = "refunds.html")]
struct RefundsPage {
    l: Layout,
    needing: Result<Vec<Row>, String>,
    /// Where the next page begins.
    next: Option<String>,
    recent: Result<Vec<Row>, String>,
}

struct Row {
    refund_no: String,
    order: String,
    payment: String,
    amount: String,
    reason: String,
    problem: String,
    state: &'static str,
    created_at: OffsetDateTime,
    said: Option<String>,
    can_be_retried: bool,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let refunds = Refunds::new(console.client.clone());
    let after = ask
        .query
        .get("after")
        .split_once('|')
        .and_then(|(at, refund_no)| Some((OffsetDateTime::parse(at, &Rfc3339).ok()?, refund_no.to_owned())));
    let after = after.as_ref().map(|(at, refund_no)| (*at, refund_no.as_str()));
    let needing = refunds.needing_person(after, ROWS).await;
    let recent = refunds.list(None, ROWS).await;
    let title = ask.texts().refunds;
    let l = Layout::new(&console, ask, title).await.still();
    let last = needing.as_ref().ok().filter(|rows| rows.len() as i64 == ROWS).and_then(|rows| rows.last());
    let next = last.map(|last| {
        let at = last.created_at.format(&Rfc3339).unwrap_or_default();
        l.link(&format!("/console/refunds?after={}", encode(&format!("{at}|{}", last.refund_no))))
    });
    let rows = |found: Result<Vec<RefundRecord>, BookError>| {
        found.map(|found| found.into_iter().map(|refund| row(refund, &l)).collect()).map_err(|error| error.to_string())
    };
    let (needing, recent): (Result<Vec<Row>, String>, Result<Vec<Row>, String>) = (rows(needing), rows(recent));
    render(&RefundsPage { needing, next, recent, l })
}

fn row(refund: RefundRecord, l: &Layout) -> Row {
    let state = match refund.state.as_str() {
        "requested" => l.t.r_requested,
        "processing" => l.t.r_processing,
        "succeeded" => l.t.r_succeeded,
        _ => l.t.r_needs_person,
    };
    let amount = match (refund.amount_minor, &refund.currency) {
        (Some(minor), Some(currency)) => money(minor, currency),
        _ => l.t.amount_untold.to_owned(),
    };
    let transaction = refund.transaction_id.as_deref().unwrap_or(l.t.amount_untold);
    Row {
        // Money that a person must place has no number by which a gateway knows it.
        can_be_retried: refund.refund_no.starts_with("overdue-"),
        payment: plain(&format!("{} · {} · {transaction}", refund.gateway, refund.trade_no)),
        refund_no: refund.refund_no,
        order: refund.order_id,
        amount,
        reason: plain(&refund.reason),
        problem: plain(&refund.problem.unwrap_or_default()),
        state,
        created_at: refund.created_at,
        said: refund.said.map(|said| plain(&said.chars().take(4_000).collect::<String>())),
    }
}
