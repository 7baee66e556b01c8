//! Messages that wait for a person: by reason, as a list, and the page that asks before many are handled.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, State};
use axum::response::Response;
use book::{ParkedEntry, ParkedFilter, ParkedGroup, ParkedState, ParkedTable};
use time::OffsetDateTime;
use worker::ParkedChoice;

use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::format::{encode, plain};
use crate::layout::{Layout, Notice, render};
use crate::page::ROWS;
use crate::page::now::messages;
use crate::snapshot::GROUP_MAX;
use crate::text::{advice, fill};

#[derive(Template)]
#[template(path = "parked.html")]
struct GroupsPage {
    l: Layout,
    groups: Vec<Group>,
    under_way: Vec<Notice>,
    has_broker: bool,
}

/// Messages that are held for one reason.
struct Group {
    reason: String,
    count: String,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
    detail: String,
    advice: &'static str,
    list: String,
    requeue: String,
    drop: String,
}

#[derive(Template)]
#[template(path = "parked_list.html")]
struct ListPage {
    l: Layout,
    reason: String,
    order: String,
    is_dropped: bool,
    rows: Result<Vec<Row>, String>,
    next: Option<String>,
    has_broker: bool,
}

/// A message in a list.
struct Row {
    id: i64,
    reason: String,
    detail: String,
    orders: Vec<String>,
    more_orders: usize,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
    times: i64,
    changed_by: String,
}

#[derive(Template)]
#[template(path = "parked_confirm.html")]
struct ConfirmPage {
    l: Layout,
    action: &'static str,
    question: Result<String, String>,
    cutoff: Option<String>,
    yes: &'static str,
    ids: Vec<i64>,
    reason: String,
    until: String,
    back: String,
    is_drop: bool,
    /// Why it cannot be done.
    hindrance: Option<&'static str>,
}

/// The most messages of an order that are looked through.
const OF_ORDER_MAX: i64 = 500;

/// So many orders of a message are named in a list.
const ORDERS_SHOWN: usize = 3;

pub(crate) async fn groups(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let title = ask.texts().parked;
    let l = Layout::new(&console, ask, title).await;
    let (groups, under_way) = match l.snapshot.books.value() {
        None => (Vec::new(), Vec::new()),
        Some(books) => {
            let groups = books.groups.iter().map(|known| group(known, &l)).collect();
            let of_parked = books.under_way.iter().filter(|row| row.action.action.starts_with("parked."));
            (groups, of_parked.map(|row| l.notice(row)).collect())
        }
    };
    render(&GroupsPage { groups, under_way, has_broker: console.broker.is_some(), l })
}

fn group(group: &ParkedGroup, l: &Layout) -> Group {
    let reason = encode(&group.reason);
    let confirm = |action: &str| {
        l.link(&format!("/console/parked/confirm?action={action}&reason={reason}&until={}", group.last_id))
    };
    Group {
        reason: plain(&group.reason),
        count: messages(group.messages, l.t),
        first_at: group.first_at,
        last_at: group.last_at,
        detail: plain(group.detail.as_deref().unwrap_or_default()),
        advice: advice(&group.reason, l.ask.language),
        list: l.link(&format!("/console/parked/list?reason={reason}")),
        requeue: confirm("requeue"),
        drop: confirm("drop"),
    }
}

pub(crate) async fn list(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let table = ParkedTable::new(console.client.clone());
    let (reason, order) = (ask.query.get("reason").to_owned(), ask.query.get("order").to_owned());
    let is_dropped = ask.query.get("state") == "dropped";
    let state = if is_dropped { ParkedState::Dropped } else { ParkedState::Held };
    let wanted = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let filter = ParkedFilter { reason: wanted(&reason), ..ParkedFilter::default() };
    let after = ask.query.optional("after").and_then(|after| after.parse().ok()).unwrap_or(0);
    let rows = match order.as_str() {
        "" => table.entries(&filter, state, (after, i64::MAX), ROWS).await,
        // All that there are of an order are few.
        order => table.of_order(order, OF_ORDER_MAX).await.map(|mut rows| {
            rows.retain(|row| row.state == state.as_str());
            rows
        }),
    };
    let rows = rows.map_err(|error| error.to_string());
    let is_full = |rows: &&Vec<ParkedEntry>| order.is_empty() && rows.len() as i64 == ROWS;
    let last = rows.as_ref().ok().filter(is_full).and_then(|rows| rows.last());
    let next = last.map(|last| ask.here_with("after", &last.id.to_string()));
    let title = ask.texts().parked;
    let l = Layout::new(&console, ask, title).await.still();
    let rows = rows.map(|rows| rows.into_iter().map(row).collect());
    render(&ListPage { reason, order, is_dropped, rows, next, has_broker: console.broker.is_some(), l })
}

fn row(row: ParkedEntry) -> Row {
    let mut orders = row.orders;
    let more_orders = orders.len().saturating_sub(ORDERS_SHOWN);
    orders.truncate(ORDERS_SHOWN);
    Row {
        id: row.id,
        reason: plain(&row.reason),
        detail: plain(row.detail.as_deref().unwrap_or_default()),
        orders,
        more_orders,
        first_at: row.first_at,
        last_at: row.last_at,
        times: row.times,
        changed_by: plain(row.changed_by.as_deref().unwrap_or_default()),
    }
}

/// Asks before many messages are handled: a page, since a script may be blocked.
pub(crate) async fn confirm(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    let (action, state) = match ask.query.get("action") {
        "drop" => ("parked-drop", ParkedState::Held),
        "restore" => ("parked-restore", ParkedState::Dropped),
        _ => ("parked-requeue", ParkedState::Held),
    };
    let choice = choice_of(&ask.query);
    let counted = match &choice {
        Some(choice) => {
            let table = ParkedTable::new(console.client.clone());
            let counted = table.count_up_to(&choice.filter, state, choice.until, GROUP_MAX + 1).await;
            counted.map_err(|error| error.to_string())
        }
        None => Ok(0),
    };
    let title = ask.texts().confirm_title;
    // It asks about what was seen, and does not renew itself.
    let l = Layout::new(&console, ask, title).await.still();
    let t = l.t;
    let (question, yes) = match action {
        "parked-drop" => (t.confirm_drop, t.yes_drop),
        "parked-restore" => (t.confirm_restore, t.yes_restore),
        _ => (t.confirm_requeue, t.yes_requeue),
    };
    let has_some = counted.as_ref().is_ok_and(|count| *count > 0);
    let question = match counted {
        Ok(0) => Err(t.nothing_chosen.to_owned()),
        Ok(count) => Ok(fill(question, &[&messages(count, t)])),
        Err(why) => Err(fill(t.cannot_look, &[&why])),
    };
    let hindrance = match () {
        () if !has_some => Some(t.nothing_chosen),
        () if !l.may_act() => Some(t.why_disabled),
        () if action == "parked-requeue" && console.broker.is_none() => Some(t.why_no_broker),
        () => None,
    };
    let query = &l.ask.query;
    let page = ConfirmPage {
        action,
        question,
        cutoff: query.optional("until").map(|until| fill(t.confirm_cutoff, &[&until])),
        yes,
        ids: query.numbers("id"),
        reason: query.get("reason").to_owned(),
        until: query.get("until").to_owned(),
        back: l.link(&back_of(query)),
        is_drop: action == "parked-drop",
        hindrance,
        l,
    };
    render(&page)
}

/// Which messages a form or a query means: chosen ones, or those of a reason up to a number. `None`: none.
pub(crate) fn choice_of(fields: &Fields) -> Option<ParkedChoice> {
    let ids = fields.numbers("id");
    if !ids.is_empty() {
        return Some(ParkedChoice { filter: ParkedFilter { ids, ..ParkedFilter::default() }, until: i64::MAX });
    }
    let (reason, until) = (fields.optional("reason")?, fields.optional("until")?.parse().ok()?);
    let filter = ParkedFilter { reason: Some(reason.to_owned()), ..ParkedFilter::default() };
    Some(ParkedChoice { filter, until })
}

/// Where a form or a query about messages leads back to.
pub(crate) fn back_of(fields: &Fields) -> String {
    match fields.numbers("id").as_slice() {
        [one] => format!("/console/parked/{one}"),
        _ => "/console/parked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_handles_all_messages_because_a_form_says_nothing() {
        for nothing in ["", "id=", "reason=unknown_order", "until=7", "reason=&until=7", "reason=a&until=x"] {
            assert!(choice_of(&Fields::parse(nothing.as_bytes())).is_none(), "{nothing}");
        }
        let group = choice_of(&Fields::parse(b"reason=a&until=7")).unwrap();
        assert_eq!((group.filter.reason.as_deref(), group.until), (Some("a"), 7));
        let chosen = choice_of(&Fields::parse(b"reason=a&until=7&id=3&id=4")).unwrap();
        assert_eq!((chosen.filter.ids, chosen.filter.reason), (vec![3, 4], None), "the chosen ones alone");
    }
}
