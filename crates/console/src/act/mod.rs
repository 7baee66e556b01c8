//! What operators do, one file for each kind of thing.

mod checks;
mod circuits;
mod deed;
mod orders;
mod parked;
mod refunds;
mod timers;

use std::sync::Arc;

use axum::response::Response;

pub(crate) use self::deed::subject;
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;

/// Does what a form asks for, and leads to the page that shows it.
pub(crate) async fn run(console: Arc<Console>, ask: Ask, action: Action, fields: Fields) -> Response {
    match action {
        Action::OrderClose => orders::close(console, ask, &fields).await,
        Action::OrderExtend => orders::extend(console, ask, &fields).await,
        Action::OrderLook => orders::look(console, ask, &fields).await,
        Action::ParkedRequeue | Action::ParkedDrop | Action::ParkedRestore => {
            parked::run(console, ask, action, &fields).await
        }
        Action::RefundResolve => refunds::resolve(console, ask, &fields).await,
        Action::RefundRetry => refunds::retry(console, ask, &fields).await,
        Action::CircuitProbe => circuits::probe(console, ask, &fields).await,
        Action::EndpointStop => circuits::stop(console, ask, &fields).await,
        Action::EndpointResume => circuits::resume(console, ask, &fields).await,
        Action::ProcessForget => circuits::forget_process(console, ask, &fields).await,
        Action::TimerFire => timers::fire(console, ask, &fields).await,
        Action::TimerCancel => timers::cancel(console, ask, &fields).await,
        Action::DoctorRun | Action::AuditRun => checks::run(console, ask, action).await,
    }
}
