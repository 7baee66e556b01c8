//! Doctor and audit, run from the console.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use book::Checks;
use tokio::time::timeout;
use worker::HandlingError;

use super::deed::{Deed, by_itself};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs doctor or audit, one at a time in all processes.
pub(super) async fn run(console: Arc<Console>, ask: Ask, action: Action) -> Response {
    let name = if action == Action::DoctorRun { "doctor" } else { "audit" };
    let back = format!("/console/{name}");
    let deed = Deed { action, subject: name.to_owned(), before: None, total: None, note: None, back };
    let (runner, checks) = (Arc::clone(&console.checks), Checks::new(console.client.clone()));
    let (by, shutdown) = (ask.visitor.name.clone(), console.shutdown.clone());
    by_itself(console, ask, deed, move |_, _| async move {
        let begun = Instant::now();
        let run = async { if name == "doctor" { runner.doctor().await } else { runner.audit().await } };
        let report = match shutdown.run_until_cancelled(timeout(CHECK_TIMEOUT, run)).await {
            Some(Ok(Ok(report))) => report,
            Some(Ok(Err(why))) => return (Err(why), 0),
            Some(Err(_)) => return (Err(format!("not done within {} s", CHECK_TIMEOUT.as_secs())), 0),
            None => return (Err(HandlingError::Stopped.to_string()), 0),
        };
        match checks.keep(name, &by, begun.elapsed(), &report).await {
            Ok(()) => (Ok("its report is below".to_owned()), 1),
            Err(error) => (Err(error.to_string()), 0),
        }
    })
    .await
}
