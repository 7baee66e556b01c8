//! All that is known of one order: what happened, who did it, what happens next.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use book::{ActionRow, OperatorActions, ParkedEntry, ParkedTable, RefundRecord, Refunds, TrailRow};
use http::StatusCode;
use order::OrderId;
use outbox::{Timer, TimerFilter};
use shop::{OrderError, OrderView, TimelineEntry};
use time::OffsetDateTime;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::{money, number, plain};
use crate::layout::{Layout, rendered};
use crate::page::next::{KnownOrder, NextStep, next};
use crate::text::{Texts, fill};

#[derive(Template)]
#[template(path = "story.html")]
struct StoryPage {
    l: Layout,
    id: String,
    story: Result<Story, String>,
}

/// What is known.
struct Story {
    facts: Option<Facts>,
    steps: Vec<Step>,
    next: Vec<NextStep>,
    /// Why each cannot be pressed, besides the visitor's role.
    why_not_close: Option<String>,
    why_not_extend: Option<String>,
}

/// How the order stands.
struct Facts {
    status: String,
    tone: &'static str,
    amount: String,
    deadline: OffsetDateTime,
    created_at: OffsetDateTime,
    transaction: String,
    items: String,
    payments: Vec<String>,
}

/// Something that happened.
struct Step {
    at: OffsetDateTime,
    title: String,
    detail: String,
    actor: String,
    tone: &'static str,
    href: Option<String>,
}

/// Everything that is looked up.
struct Found {
    view: Option<OrderView>,
    entries: Vec<TimelineEntry>,
    timers: Vec<Timer>,
    trail: Vec<TrailRow>,
    actions: Vec<ActionRow>,
    parked: Vec<ParkedEntry>,
    refunds: Vec<RefundRecord>,
    in_outbox: (i64, i64),
}

/// Of each kind no more is shown.
const STEPS_MAX: i64 = 500;
const ROWS_MAX: i64 = 50;

pub(crate) async fn show(
    State(console): State<Arc<Console>>,
    Extension(ask): Extension<Ask>,
    Path(id): Path<String>,
) -> Response {
    of(&console, ask, &id).await
}

/// The story of the order of this ID.
pub(crate) async fn of(console: &Console, ask: Ask, id: &str) -> Response {
    let found = look_up(console, id).await;
    let title = format!("{} {}", ask.texts().order, plain(id));
    let l = Layout::new(console, ask, &title).await;
    let story = found.map(|found| story(found, console, &l));
    let is_nowhere = story.as_ref().is_ok_and(|story| story.facts.is_none() && story.steps.is_empty());
    let status = if is_nowhere { StatusCode::NOT_FOUND } else { StatusCode::OK };
    rendered(status, &StoryPage { id: id.to_owned(), story, l })
}

async fn look_up(console: &Console, id: &str) -> Result<Found, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let order = OrderId::new(id).map_err(|error| text(&error))?;
    let client = &console.client;
    let mut connection = console.pool.get().await.map_err(|error| text(&error))?;
    let view = match shop::show(&mut connection, &order).await {
        Ok(view) => Some(view),
        Err(OrderError::Unknown(_)) => None,
        Err(error) => return Err(text(&error)),
    };
    let entries = match shop::timeline(&mut connection, &order).await {
        Ok(entries) => entries,
        Err(OrderError::Unknown(_)) => Vec::new(),
        Err(error) => return Err(text(&error)),
    };
    let filter = TimerFilter { subject: Some(id.to_owned()), ..TimerFilter::default() };
    let timers = outbox::timers(&mut connection, &filter, 50).await.map_err(|error| text(&error))?;
    drop(connection);
    let table = ParkedTable::new(client.clone());
    let parked = table.of_order(id, ROWS_MAX).await.map_err(|error| text(&error))?;
    Ok(Found {
        view,
        entries,
        timers,
        trail: book::trail_of(client, id, STEPS_MAX).await.map_err(|error| text(&error))?,
        actions: OperatorActions::new(client.clone()).about(id, ROWS_MAX).await.map_err(|error| text(&error))?,
        parked,
        refunds: Refunds::new(client.clone()).of_order(id).await.map_err(|error| text(&error))?,
        in_outbox: book::waiting_in_outbox(client, id).await.map_err(|error| text(&error))?,
    })
}

fn story(found: Found, console: &Console, l: &Layout) -> Story {
    let known = KnownOrder {
        view: found.view.as_ref(),
        in_outbox: found.in_outbox,
        trail: &found.trail,
        refunds: &found.refunds,
        parked: &found.parked,
        timers: &found.timers,
        relay: l.has_role("relay"),
        worker: l.has_role("worker"),
    };
    let next = next(&known, &console.lanes, l.now, l.t);
    let next = next.into_iter().map(|step| NextStep {
        text: plain(&step.text),
        href: step.href.map(|href| l.link(&href)),
        ..step
    });
    let pending = found.view.as_ref().map(|view| (view.status == "pending", view.status.clone(), view.overdue));
    let not_pending = match &pending {
        Some((true, ..)) => None,
        Some((false, status, _)) => Some(fill(l.t.why_not_pending, &[status])),
        None => Some(l.t.none.to_owned()),
    };
    let is_past = matches!(&pending, Some((true, _, true)));
    let why_not_extend = not_pending.clone().or_else(|| is_past.then(|| l.t.why_past.to_owned()));
    Story {
        facts: found.view.as_ref().map(facts),
        next: next.collect(),
        steps: steps(&found, l),
        why_not_close: not_pending,
        why_not_extend,
    }
}

fn facts(view: &OrderView) -> Facts {
    let items: Vec<String> =
        view.items.iter().map(|item| format!("{} × {}", item.sku, number(item.quantity))).collect();
    let payment = |payment: &shop::PaymentView| {
        let transaction = payment.transaction_id.as_ref().map(|id| format!(" · {id}")).unwrap_or_default();
        plain(&format!("{} · {} · {}{transaction}", payment.gateway, payment.trade_no, payment.state))
    };
    Facts {
        tone: tone_of(&view.status),
        status: view.status.clone(),
        amount: money(view.amount_minor, &view.currency),
        deadline: view.payment_deadline,
        created_at: view.created_at,
        transaction: plain(view.transaction_id.as_deref().unwrap_or_default()),
        items: plain(&items.join(", ")),
        payments: view.payments.iter().map(payment).collect(),
    }
}

fn tone_of(status: &str) -> &'static str {
    match status {
        "paid" => "good",
        "pending" => "warn",
        _ => "plain",
    }
}

fn steps(found: &Found, l: &Layout) -> Vec<Step> {
    let t = l.t;
    let step = |at: OffsetDateTime, title: &str, detail: &str, actor: &str, tone| Step {
        at,
        title: title.to_owned(),
        detail: plain(detail),
        actor: plain(actor),
        tone,
        href: None,
    };
    let mut steps: Vec<Step> = found
        .entries
        .iter()
        .map(|entry| {
            let by =
                entry.operator.as_ref().map_or_else(|| entry.actor.clone(), |who| format!("{} · {who}", entry.actor));
            let (title, tone) = of_entry(&entry.what, t);
            let detail = if entry.detail == entry.what { "" } else { &entry.detail };
            step(entry.at, title, detail, &by, tone)
        })
        .collect();
    for payment in found.view.iter().flat_map(|view| &view.payments).filter(|payment| payment.prepay != "none") {
        steps.push(step(payment.begun_at, t.s_payment_begun, &payment.trade_no, &payment.gateway, "plain"));
    }
    for row in &found.trail {
        let (title, tone) = of_trail(&row.step, t);
        steps.push(step(row.at, title, &row.detail, &row.actor, tone));
    }
    for row in &found.actions {
        let (tone, state) = l.action_state(row);
        let after = row.after.as_deref().map(|after| format!(": {after}")).unwrap_or_default();
        let note = row.action.note.as_deref().map(|note| format!(" ({note})")).unwrap_or_default();
        let detail = format!("{} {state}{after}{note}", row.action.action);
        steps.push(step(row.at, t.s_operator, &detail, &row.action.operator, tone));
    }
    for row in &found.parked {
        let href = Some(l.link(&format!("/console/parked/{}", row.id)));
        let detail = row.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let parked = step(row.first_at, t.s_parked, &format!("{}{detail}", row.reason), "", "bad");
        steps.push(Step { href: href.clone(), ..parked });
        let ended = if row.state == "dropped" { t.s_dropped } else { t.s_requeued };
        if let Some(at) = row.changed_at.filter(|_| row.state != "held") {
            let ended = step(
                at,
                ended,
                row.note.as_deref().unwrap_or_default(),
                row.changed_by.as_deref().unwrap_or_default(),
                "plain",
            );
            steps.push(Step { href, ..ended });
        }
    }
    // Stable: what is told of one moment stays in its order.
    steps.sort_by_key(|step| step.at);
    steps
}

/// The words for an entry of the timeline.
fn of_entry<'a>(what: &'a str, t: &Texts) -> (&'a str, &'static str) {
    match what {
        "created" => (t.s_created, "plain"),
        "deadline moved" => (t.s_deadline_moved, "plain"),
        "paid" => (t.s_paid, "good"),
        "cancelled" => (t.s_cancelled, "plain"),
        "closed" => (t.s_closed, "plain"),
        "pending" => (t.s_pending, "plain"),
        "refund recorded" => (t.s_refund_recorded, "warn"),
        "refund succeeded" => (t.s_refund_succeeded, "good"),
        "trade not found" => (t.s_trade_not_found, "warn"),
        "timer armed" => (t.s_timer_armed, "plain"),
        "timer fired" => (t.s_timer_fired, "plain"),
        "timer cancelled" => (t.s_timer_cancelled, "plain"),
        other => (other, "plain"),
    }
}

/// The words for a step of the way.
fn of_trail<'a>(step: &'a str, t: &Texts) -> (&'a str, &'static str) {
    match step {
        "relayed" => (t.s_relayed, "plain"),
        "announced" => (t.s_announced, "plain"),
        "came" => (t.s_came, "plain"),
        "sent_on" => (t.s_sent_on, "plain"),
        "asked" => (t.s_asked, "plain"),
        "notified" => (t.s_notified, "plain"),
        "refund" => (t.s_refund, "plain"),
        "delivered" => (t.s_delivered, "plain"),
        "undelivered" => (t.s_undelivered, "warn"),
        other => (other, "plain"),
    }
}
