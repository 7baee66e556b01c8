//! Parked messages: sent in again, dropped, had back.

use std::sync::Arc;

use axum::response::Response;
use book::{OperatorActions, ParkedFilter, ParkedState, ParkedTable};
use broker::Publisher;
use worker::{ParkedChoice, Requeued, move_parked, requeue};

use super::deed::{Deed, by_itself, signed};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::page::failure;
use crate::page::parked::{back_of, choice_of};

pub(super) async fn run(console: Arc<Console>, ask: Ask, action: Action, fields: &Fields) -> Response {
    let back = back_of(fields);
    let (choice, subject) = match choice(&console, fields).await {
        Ok(choice) => choice,
        Err(why) => return failure::failed(&console, ask, &why, &back).await,
    };
    let table = ParkedTable::new(console.client.clone());
    let state = if action == Action::ParkedRestore { ParkedState::Dropped } else { ParkedState::Held };
    let total = match table.count_up_to(&choice.filter, state, choice.until, i64::MAX).await {
        Ok(total) => total,
        Err(error) => return failure::failed(&console, ask, &error.to_string(), &back).await,
    };
    let mut deed = Deed { total: Some(total), ..Deed::new(action, fields, back) };
    if let Some(subject) = subject {
        deed.subject = subject;
    }
    let operator = ask.visitor.name.clone();
    match action {
        Action::ParkedRequeue => {
            let Some(broker) = console.broker.clone() else {
                let why = ask.texts().why_no_broker;
                return failure::failed(&console, ask, why, &deed.back).await;
            };
            let confirm_timeout = console.confirm_timeout;
            by_itself(console, ask, deed, move |id, progress| async move {
                let mut publisher = Publisher::new(broker, "console", confirm_timeout);
                let Requeued { count, unknown, ended } =
                    requeue(&table, &mut publisher, &choice, &by(&operator, id), &progress).await;
                publisher.close().await;
                let count = signed(count);
                let ended = match (ended, unknown) {
                    (Err(error), _) => Err(format!("{count} were sent in again; then: {error}")),
                    (Ok(()), Some(kind)) => Err(format!("{count} were sent in again; others stay parked: {kind}")),
                    (Ok(()), None) => Ok(format!("{count} were sent in again")),
                };
                (ended, count)
            })
            .await
        }
        _ => {
            let (states, done) = match action {
                Action::ParkedRestore => ((ParkedState::Dropped, ParkedState::Held), "parked again"),
                _ => ((ParkedState::Held, ParkedState::Dropped), "dropped"),
            };
            by_itself(console, ask, deed, move |id, progress| async move {
                match move_parked(&table, &choice, states, &by(&operator, id), &progress).await {
                    Ok(count) => (Ok(format!("{count} were {done}")), signed(count)),
                    Err(error) => {
                        let seen = progress.handled();
                        (Err(format!("{seen} were looked at; then: {error}")), signed(seen))
                    }
                }
            })
            .await
        }
    }
}

/// Which messages; and what that is called, where the form does not say it.
async fn choice(console: &Console, fields: &Fields) -> Result<(ParkedChoice, Option<String>), String> {
    let Some(undone) = fields.optional("undo") else {
        return choice_of(fields).map(|choice| (choice, None)).ok_or_else(|| "no message was chosen".to_owned());
    };
    let id: i64 = undone.parse().map_err(|_| "no such action".to_owned())?;
    let action = OperatorActions::new(console.client.clone()).get(id).await.map_err(|error| error.to_string())?;
    let action = action.filter(|row| row.action.action == Action::ParkedDrop.name()).ok_or("no such action")?;
    let filter = ParkedFilter { changed_by: Some(by(&action.action.operator, id)), ..ParkedFilter::default() };
    Ok((ParkedChoice { filter, until: i64::MAX }, Some(format!("action {id}"))))
}

/// Who did it, as the rows say: what one action has dropped is had back together.
fn by(operator: &str, action: i64) -> String {
    format!("{operator} (action {action})")
}
