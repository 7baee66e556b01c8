//! Something that an operator does: written down before, done, written down after. One that many things are about goes
//! on by itself.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Redirect, Response};
use book::{ActionEnd, Begun, NewAction, OperatorActions};
use retry::Policy;
use tokio::time::{interval, timeout};
use worker::Progress;

use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
use crate::page::failure;

/// What is to be done, as far as it is written down before.
pub(super) struct Deed {
    pub(super) action: Action,
    pub(super) subject: String,
    pub(super) before: Option<String>,
    pub(super) total: Option<i64>,
    pub(super) note: Option<String>,
    /// The page that is shown afterwards.
    pub(super) back: String,
}

/// How it ended: how it stands now, or why it failed; and how many things were handled.
pub(super) type Ended = (Result<String, String>, i64);

/// How long a page waits for an action that goes on by itself.
const WAIT: Duration = Duration::from_secs(1);

/// How often it is written down how far it has come.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// How often it is tried to write down how an action has ended, in some seconds, while the database is away.
const END_TRIES: u32 = 5;

/// What an action is about, by the field that it goes by itself.
pub(crate) fn subject(action: Option<Action>, fields: &Fields) -> String {
    let field = match action {
        Some(Action::OrderClose | Action::OrderExtend | Action::OrderLook) => "order",
        Some(Action::RefundResolve | Action::RefundRetry) => "refund_no",
        Some(Action::CircuitProbe | Action::EndpointStop | Action::EndpointResume) => "name",
        Some(Action::ProcessForget) => "process",
        Some(Action::TimerFire | Action::TimerCancel) => "timer",
        Some(Action::ParkedRequeue | Action::ParkedDrop | Action::ParkedRestore) => return chosen(fields),
        Some(Action::DoctorRun | Action::AuditRun) | None => "",
    };
    let named = fields.exact(field).unwrap_or("-");
    written(named)
}

/// As it is written down: what somebody sent may have anything in it.
fn written(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Which messages.
fn chosen(fields: &Fields) -> String {
    match fields.numbers("id").as_slice() {
        [] => written(fields.get("reason")),
        [one] => format!("#{one}"),
        several => format!("{} chosen", several.len()),
    }
}

impl Deed {
    pub(super) fn new(action: Action, fields: &Fields, back: impl Into<String>) -> Self {
        let note = fields.optional("note").map(|note| note.chars().take(1_000).collect());
        Self { action, subject: subject(Some(action), fields), before: None, total: None, note, back: back.into() }
    }

    fn record(&self, ask: &Ask) -> NewAction {
        NewAction {
            operator: ask.visitor.name.clone(),
            role: ask.visitor.role.as_str().to_owned(),
            address: ask.visitor.address.clone(),
            action: self.action.name(),
            subject: self.subject.clone(),
            note: self.note.clone(),
            before: self.before.clone(),
            total: self.total,
        }
    }
}

/// Something short: the page waits for it.
pub(super) async fn at_once(
    console: &Console,
    ask: Ask,
    deed: Deed,
    work: impl Future<Output = Result<String, String>>,
) -> Response {
    let actions = OperatorActions::new(console.client.clone());
    let id = match begin(console, &actions, &ask, &deed).await {
        Ok(id) => id,
        Err(instead) => return instead,
    };
    let (end, after) = match work.await {
        Ok(after) => (ActionEnd::Done, after),
        Err(why) => (ActionEnd::Failed, why),
    };
    let operator = &ask.visitor.name;
    tracing::info!(
        operator,
        action = deed.action.name(),
        subject = deed.subject,
        done = end == ActionEnd::Done,
        "an operator acted"
    );
    write_end(&actions, id, end, &after, i64::from(end == ActionEnd::Done)).await;
    shown(console, &ask, &deed.back, id).await
}

/// Writes down that it begins. What cannot be written down is not done, nor is what is under way already: then that is
/// shown instead.
async fn begin(console: &Console, actions: &OperatorActions, ask: &Ask, deed: &Deed) -> Result<i64, Response> {
    match actions.begin(&deed.record(ask)).await {
        Ok(Begun::New(id)) => Ok(id),
        Ok(Begun::UnderWay(id)) => Err(shown(console, ask, &deed.back, id).await),
        Err(error) => Err(failure::failed(console, ask.clone(), &error.to_string(), &deed.back).await),
    }
}

/// It was done, or not, and that is to be known: a database that is away for a moment is waited for.
async fn write_end(actions: &OperatorActions, id: i64, end: ActionEnd, after: &str, handled: i64) {
    let mut delays = Policy::RECONNECT.delays();
    for tries_left in (0..END_TRIES).rev() {
        match actions.end(id, end, after, handled).await {
            Ok(()) => return,
            Err(error) if tries_left == 0 => {
                tracing::warn!(%error, id, after, "how an action ended cannot be written down");
            }
            Err(_) => tokio::time::sleep(delays.next_delay()).await,
        }
    }
}

/// Something that takes as long as it takes: the page waits for a moment, and then shows how far it has come. The work
/// is told the number of the action, and tells how far it is. It ends before the process does.
pub(super) async fn by_itself<W, F>(console: Arc<Console>, ask: Ask, deed: Deed, work: W) -> Response
where
    W: FnOnce(i64, Arc<Progress>) -> F,
    F: Future<Output = Ended> + Send + 'static,
{
    let actions = OperatorActions::new(console.client.clone());
    let id = match begin(&console, &actions, &ask, &deed).await {
        Ok(id) => id,
        Err(instead) => return instead,
    };
    let progress = Arc::new(Progress::until(console.shutdown.clone()));
    let work = work(id, Arc::clone(&progress));
    let (operator, name, subject) = (ask.visitor.name.clone(), deed.action.name(), deed.subject.clone());
    let task = console.tasks.spawn(async move {
        tokio::pin!(work);
        let mut ticks = interval(TOLD_EVERY);
        let (ended, count) = loop {
            tokio::select! {
                ended = &mut work => break ended,
                _ = ticks.tick() => {
                    let _ = actions.progress(id, signed(progress.handled())).await;
                }
            }
        };
        let (end, after) = match ended {
            Ok(after) => (ActionEnd::Done, after),
            Err(why) => (ActionEnd::Failed, why),
        };
        tracing::info!(operator, action = name, subject, count, done = end == ActionEnd::Done, "an operator acted");
        write_end(&actions, id, end, &after, count).await;
    });
    let _ = timeout(WAIT, task).await;
    shown(&console, &ask, &deed.back, id).await
}

/// A number as tables have it.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// To the page, which shows how it went.
pub(super) async fn shown(console: &Console, ask: &Ask, back: &str, id: i64) -> Response {
    console.snapshots.renew().await;
    let separator = if back.contains('?') { '&' } else { '?' };
    Redirect::to(&ask.link(&format!("{back}{separator}done={id}"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_record_is_what_is_acted_on() {
        let fields = Fields::parse(b"order=A-1&refund_no=r-7&name=shop&timer=sms:1&reason=not_json&id=3&id=4");
        for (action, expected) in [
            (Action::OrderClose, "A-1"),
            (Action::RefundResolve, "r-7"),
            (Action::EndpointStop, "shop"),
            (Action::TimerFire, "sms:1"),
            (Action::ParkedDrop, "2 chosen"),
            (Action::AuditRun, "-"),
        ] {
            assert_eq!(subject(Some(action), &fields), expected);
        }
        assert_eq!(subject(Some(Action::ParkedDrop), &Fields::parse(b"order=A-1&reason=not_json&until=9")), "not_json");
        assert_eq!(
            subject(Some(Action::OrderClose), &Fields::parse(b"order=A%00%0A-1")),
            "A-1",
            "it can be written down"
        );
    }
}
