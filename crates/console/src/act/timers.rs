//! Timers: fired now, cancelled.

use std::sync::Arc;

use axum::response::Response;
use order::TimerId;

use super::deed::{Deed, at_once};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::format::encode;

pub(super) async fn fire(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let deed = Deed::new(Action::TimerFire, fields, back(fields));
    let work = async {
        let (id, mut connection) = (timer(fields)?, console.pool.get().await.map_err(text)?);
        match outbox::make_timer_due(&mut connection, &id).await.map_err(text)? {
            Some(_) => Ok("it is due now".to_owned()),
            None => Err("there is no timer of this name that is armed".to_owned()),
        }
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn cancel(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let deed = Deed::new(Action::TimerCancel, fields, back(fields));
    let work = async {
        let (id, mut connection) = (timer(fields)?, console.pool.get().await.map_err(text)?);
        match outbox::cancel_timer(&mut connection, &id).await.map_err(text)? {
            true => Ok("it does not fire".to_owned()),
            false => Err("it has fired, or there is none".to_owned()),
        }
    };
    at_once(&console, ask, deed, work).await
}

fn timer(fields: &Fields) -> Result<TimerId, String> {
    fields.exact("timer").unwrap_or_default().parse().map_err(text)
}

fn back(fields: &Fields) -> String {
    match fields.exact("timer").and_then(|timer| timer.split_once(':')) {
        Some((_, subject)) => format!("/console/timers?subject={}", encode(subject)),
        None => "/console/timers".to_owned(),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
