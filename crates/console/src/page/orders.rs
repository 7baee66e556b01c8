//! Orders by their ID, and those that should have closed.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Redirect, Response};
use order::OrderId;
use shop::OrderLine;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{money, order_path, plain};
use crate::layout::{Layout, render};
use crate::page::{ROWS, story};
use crate::text::fill;

#[derive(Template)]
#[template(path = "orders.html")]
struct OrdersPage {
    l: Layout,
    wanted: String,
    found: Result<Vec<Line>, String>,
    nothing: Option<String>,
    overdue: Result<Vec<Line>, String>,
}

/// An order in a list.
struct Line {
    id: String,
    status: String,
    deadline: time::OffsetDateTime,
    amount: String,
}

pub(crate) async fn show(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    // Exactly as it was sent, and without the blanks that come along when it is copied.
    let wanted = ask.query.exact("id").unwrap_or_default().trim().to_owned();
    let found = if wanted.is_empty() { Ok(Vec::new()) } else { search(&console, &wanted).await };
    let is_exact = found.as_ref().is_ok_and(|found| found.iter().any(|line| line.id == wanted));
    // An ID that cannot stand in a path has its story here.
    if is_exact && order_path(&wanted).contains('?') {
        return story::of(&console, ask, &wanted).await;
    }
    if is_exact && found.as_ref().is_ok_and(|found| found.len() == 1) {
        return Redirect::to(&ask.link(&order_path(&wanted))).into_response();
    }
    let title = ask.texts().orders;
    let overdue = match console.pool.get().await {
        Ok(mut connection) => shop::overdue_orders(&mut connection, ROWS).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let l = Layout::new(&console, ask, title).await.still();
    let is_empty = !wanted.is_empty() && found.as_ref().is_ok_and(Vec::is_empty);
    let nothing = is_empty.then(|| fill(l.t.found_none, &[&plain(&wanted)]));
    let lines = |found: Result<Vec<OrderLine>, String>| found.map(|found| found.into_iter().map(line).collect());
    render(&OrdersPage { found: lines(found), overdue: lines(overdue), nothing, wanted, l })
}

async fn search(console: &Console, wanted: &str) -> Result<Vec<OrderLine>, String> {
    let mut connection = console.pool.get().await.map_err(|error| error.to_string())?;
    // What can be no ID is not looked for: the database would refuse some of it.
    if wanted.len() > 128 || wanted.chars().any(char::is_control) {
        return Err(OrderId::new(wanted).map_or_else(|error| error.to_string(), |_| "this is no order ID".to_owned()));
    }
    shop::orders_like(&mut connection, wanted, ROWS).await.map_err(|error| error.to_string())
}

fn line(line: OrderLine) -> Line {
    let OrderLine { id, status, payment_deadline, amount_minor, currency } = line;
    Line { id, status, deadline: payment_deadline, amount: money(amount_minor, &currency) }
}
