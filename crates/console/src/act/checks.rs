//! Doctor and audit, run from the console.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use book::{Checks, OperatorActions};
use tokio::time::timeout;

use super::deed::{Deed, by_itself, shown};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::page::failure;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs doctor or audit, one at a time in all processes.
pub(super) async fn run(console: Arc<Console>, ask: Ask, action: Action) -> Response {
    let name = if action == Action::DoctorRun { "doctor" } else { "audit" };
    let back = format!("/console/{name}");
    let actions = OperatorActions::new(console.client.clone());
    let running = match actions.under_way(100).await {
        Ok(rows) => rows.into_iter().find(|row| row.action.action == action.name() && row.is_under_way()),
        Err(error) => return failure::failed(&console, ask, &error.to_string(), &back).await,
    };
    if let Some(running) = running {
        return shown(&console, &ask, &back, running.id).await;
    }
    let deed = Deed { action, subject: name.to_owned(), before: None, total: None, note: None, back };
    let (runner, checks) = (Arc::clone(&console.checks), Checks::new(console.client.clone()));
    let by = ask.visitor.name.clone();
    by_itself(console, ask, deed, move |_, _| async move {
        let begun = Instant::now();
        let run = async { if name == "doctor" { runner.doctor().await } else { runner.audit().await } };
        let report = match timeout(CHECK_TIMEOUT, run).await {
            Ok(Ok(report)) => report,
            Ok(Err(why)) => return (Err(why), 0),
            Err(_) => return (Err(format!("not done within {} s", CHECK_TIMEOUT.as_secs())), 0),
        };
        match checks.keep(name, &by, begun.elapsed(), &report).await {
            Ok(()) => (Ok("its report is below".to_owned()), 1),
            Err(error) => (Err(error.to_string()), 0),
        }
    })
    .await
}
