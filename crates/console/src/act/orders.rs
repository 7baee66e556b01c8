//! Orders: closed, extended, looked at again.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use book::Actor;
use order::{Deadline, Operator, OrderId};
use shop::OrderView;

use super::deed::{Deed, at_once};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::format::order_path;
use crate::page::failure;

/// How long a close is waited for. It goes on by itself.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The most minutes by which a deadline is moved at a time: a year.
const MINUTES_MAX: u64 = 525_600;

pub(super) async fn close(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let (id, view, deed) = match prepare(&console, &ask, Action::OrderClose, fields).await {
        Ok(prepared) => prepared,
        Err(why) => return failed(&console, ask, fields, &why).await,
    };
    let (operator, reason) = (operator(&ask), reason(fields, "closed from the console"));
    let work = async {
        if view.status != "pending" {
            return Err(format!("the order is {}", view.status));
        }
        let mut connection = console.pool.get().await.map_err(text)?;
        shop::make_due(&mut connection, &id, &reason, Some(&operator)).await.map_err(text)?;
        drop(connection);
        if let Some(passive) = &console.passive {
            let by = Actor { name: "console".to_owned(), reason: reason.clone(), operator: Some(operator.clone()) };
            passive.look_at(&id, Some(by), CLOSE_WAIT).await;
        }
        stands(&console, &id).await
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn extend(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let (id, view, deed) = match prepare(&console, &ask, Action::OrderExtend, fields).await {
        Ok(prepared) => prepared,
        Err(why) => return failed(&console, ask, fields, &why).await,
    };
    let (operator, reason) = (operator(&ask), reason(fields, "extended from the console"));
    let work = async {
        let minutes = fields.get("minutes").parse().ok().filter(|minutes| (1..=MINUTES_MAX).contains(minutes));
        let minutes = minutes.ok_or_else(|| format!("give 1 to {MINUTES_MAX} minutes"))?;
        let to = view.payment_deadline.checked_add(time::Duration::seconds(i64::try_from(minutes * 60).unwrap_or(0)));
        let to = to.ok_or_else(|| "there is no such time".to_owned())?;
        let mut connection = console.pool.get().await.map_err(text)?;
        shop::extend(&mut connection, &id, Deadline::at(to), &reason, Some(&operator)).await.map_err(text)?;
        drop(connection);
        stands(&console, &id).await
    };
    at_once(&console, ask, deed, work).await
}

/// Has its message sent anew. Status, deadline and gateway decide what comes of it.
pub(super) async fn look(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let (id, _, deed) = match prepare(&console, &ask, Action::OrderLook, fields).await {
        Ok(prepared) => prepared,
        Err(why) => return failed(&console, ask, fields, &why).await,
    };
    let work = async {
        let mut connection = console.pool.get().await.map_err(text)?;
        let now = database::read_clock(&mut connection).await.map_err(text)?;
        outbox::arm(&mut connection, &id, Deadline::at(now)).await.map_err(text)?;
        Ok("a message for it is on its way".to_owned())
    };
    at_once(&console, ask, deed, work).await
}

/// The order, as it stands before.
async fn prepare(
    console: &Console,
    ask: &Ask,
    action: Action,
    fields: &Fields,
) -> Result<(OrderId, OrderView, Deed), String> {
    let id = OrderId::new(fields.exact("order").unwrap_or_default()).map_err(text)?;
    let mut connection = console.pool.get().await.map_err(text)?;
    let view = shop::show(&mut connection, &id).await.map_err(text)?;
    let mut deed = Deed::new(action, fields, order_path(id.as_str()));
    deed.note = deed.note.or_else(|| fields.optional("why").map(str::to_owned));
    deed.before = Some(words(&view));
    let _ = ask;
    Ok((id, view, deed))
}

async fn stands(console: &Console, id: &OrderId) -> Result<String, String> {
    let mut connection = console.pool.get().await.map_err(text)?;
    Ok(words(&shop::show(&mut connection, id).await.map_err(text)?))
}

fn words(view: &OrderView) -> String {
    format!("{}, due at {}", view.status, Deadline::at(view.payment_deadline))
}

fn operator(ask: &Ask) -> Operator {
    Operator { kind: "operator".to_owned(), name: ask.visitor.name.clone() }
}

fn reason(fields: &Fields, otherwise: &str) -> String {
    fields.optional("why").map_or_else(|| otherwise.to_owned(), |why| why.chars().take(500).collect())
}

async fn failed(console: &Console, ask: Ask, fields: &Fields, why: &str) -> Response {
    let back = order_path(fields.exact("order").unwrap_or_default());
    failure::failed(console, ask, why, &back).await
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
