//! Timers: armed, moved, cancelled, fired at once, looked at.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header::ETAG;
use http::{HeaderMap, StatusCode};
use order::{BadDeadline, Deadline, TimerId, TimerState, check_timer_due};
use outbox::{Timer, TimerDue, TimerFilter};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::body::{ArmTimer, TimerList, TimerView};
use crate::change::{change, made_by};
use crate::etag::{has_it, is_other, tagged, tagged_as};
use crate::idempotency::Answer;
use crate::input::{PathTimer, invalid, parse};
use crate::problem::{Problem, ProblemKind};
use crate::service::{OrderService, SETTLE_WAIT};

/// The most timers of a list.
const LIST_MAX: usize = 1_000;

/// Ten years.
const AFTER_MAX_S: f64 = 315_619_200.0;

/// Which timers are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Of this subject, such as an order's ID.
    #[param(required = true)]
    subject: Option<String>,
    /// Of this kind.
    kind: Option<String>,
    /// In this state: `armed`, `fired` or `cancelled`.
    state: Option<String>,
}

/// Arm a timer, or move it: the last call wins, and the same call again changes nothing. With `If-Match` and a revision it is
/// moved only if it stands as the client has seen it; with `If-None-Match: *` it is armed only if there is none of this name.
#[utoipa::path(put, path = "/timers/{kind}/{subject}", request_body = ArmTimer, tag = "timers", security(("bearer" = [])),
    params(PathTimer, ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = TimerView), (status = 201, body = TimerView, description = "There was none of this name"),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn arm(
    State(service): State<Arc<OrderService>>,
    PathTimer(id): PathTimer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let wanted: ArmTimer = parse(&body)?;
    let due = due(&wanted)?;
    expected(&service, &id)?;
    let wanted = Arc::new((id.clone(), headers, wanted));
    let make = made_by(move |connection| {
        let wanted = Arc::clone(&wanted);
        Box::pin(async move {
            let (id, headers, ArmTimer { data, .. }) = &*wanted;
            let before = outbox::lock_timer(connection, id).await?;
            let tag = before.as_ref().map(tag);
            if is_other(headers, tag.as_deref()) || tag.as_ref().is_some_and(|tag| has_it(headers, tag)) {
                let stands = tag.map_or("is not there".to_owned(), |tag| format!("has the tag {tag} by now"));
                return Err(Problem::new(ProblemKind::PreconditionFailed, format!("timer {id} {stands}")));
            }
            outbox::arm_timer(connection, id, due, data.as_ref().map(|data| data.get())).await?;
            Ok(before.is_none())
        })
    });
    let is_new = change(&service, None, make).await?.unwrap_or_default();
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, look_up(&service, &id).await?))
}

/// Look at a timer.
#[utoipa::path(get, path = "/timers/{kind}/{subject}", tag = "timers", security(("bearer" = [])),
    params(PathTimer, ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = TimerView), (status = 304, description = "The client has it already"),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(service): State<Arc<OrderService>>,
    PathTimer(id): PathTimer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let timer = look_up(&service, &id).await?;
    Ok(tagged_as(&headers, &tag(&timer), &TimerView::from(timer)))
}

/// Cancel a timer: it does not fire any more. 409: it has fired.
#[utoipa::path(delete, path = "/timers/{kind}/{subject}", tag = "timers", security(("bearer" = [])),
    params(PathTimer, ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = TimerView), (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(service): State<Arc<OrderService>>,
    PathTimer(id): PathTimer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Arc::new((id.clone(), headers));
    let make = made_by(move |connection| {
        let wanted = Arc::clone(&wanted);
        Box::pin(async move {
            let (id, headers) = &*wanted;
            let timer = outbox::lock_timer(connection, id).await?.ok_or_else(|| unknown(id))?;
            // Cancelled already is what the client asks for, whatever it has seen.
            if timer.state != TimerState::Cancelled && is_other(headers, Some(&tag(&timer))) {
                let detail = format!("timer {id} has the tag {} by now", tag(&timer));
                return Err(Problem::new(ProblemKind::PreconditionFailed, detail));
            }
            match outbox::cancel_timer(connection, id).await? {
                true => Ok(()),
                false => Err(Problem::new(ProblemKind::TimerNotArmed, format!("timer {id} has fired already"))),
            }
        })
    });
    change(&service, None, make).await?;
    Ok(answer(StatusCode::OK, look_up(&service, &id).await?))
}

/// Fire a timer now that is armed. 202: that takes longer; it goes on by itself. One that has fired stays as it is.
#[utoipa::path(post, path = "/timers/{kind}/{subject}/fire", tag = "timers", security(("bearer" = [])), params(PathTimer),
    responses((status = 200, body = TimerView), (status = 202, body = TimerView),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn fire(
    State(service): State<Arc<OrderService>>,
    PathTimer(id): PathTimer,
) -> Result<Response, Problem> {
    expected(&service, &id)?;
    let wanted = Arc::new(id.clone());
    let make = made_by(move |connection| {
        let id = Arc::clone(&wanted);
        Box::pin(async move { Ok(outbox::make_timer_due(connection, &id).await?.is_some()) })
    });
    if change(&service, None, make).await?.unwrap_or_default() {
        service.timers.fire_now(&id, SETTLE_WAIT).await;
    }
    let timer = look_up(&service, &id).await?;
    match timer.state {
        TimerState::Fired => Ok(answer(StatusCode::OK, timer)),
        TimerState::Armed => Ok(answer(StatusCode::ACCEPTED, timer)),
        TimerState::Cancelled => {
            Err(Problem::new(ProblemKind::TimerNotArmed, format!("timer {id} was cancelled; arm it anew")))
        }
    }
}

/// Look at the timers of a subject, such as an order.
#[utoipa::path(get, path = "/timers", tag = "timers", security(("bearer" = [])),
    params(Wanted, ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = TimerList), (status = 304, description = "The client has it already"),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(service): State<Arc<OrderService>>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Wanted { subject, kind, state }) = wanted.map_err(|error| invalid(&error.body_text()))?;
    if subject.is_none() {
        return Err(invalid("say whose timers: ?subject=842317"));
    }
    let state = state.map(|state| state.parse().map_err(|error: order::BadTimerState| invalid(&error.to_string())));
    let filter = TimerFilter { subject, kind, state: state.transpose()? };
    // What is not a text in PostgreSQL is nobody's.
    let is_text = |text: &Option<String>| text.as_ref().is_none_or(|text| !text.contains('\0'));
    let found = match is_text(&filter.subject) && is_text(&filter.kind) {
        true => outbox::timers(&mut *service.pool.get().await?, &filter, LIST_MAX).await?,
        false => Vec::new(),
    };
    Ok(tagged(&headers, &TimerList { timers: found.into_iter().map(TimerView::from).collect() }))
}

fn due(wanted: &ArmTimer) -> Result<TimerDue, Problem> {
    match (&wanted.due_at, wanted.after_s) {
        (Some(at), None) => {
            let at: Deadline = at.parse().map_err(|error: BadDeadline| invalid(&error.to_string()))?;
            check_timer_due(at).map_err(|error| invalid(&error.to_string()))?;
            Ok(TimerDue::At(at))
        }
        (None, Some(after_s)) if (0.0..=AFTER_MAX_S).contains(&after_s) => {
            Ok(TimerDue::After(Duration::from_secs_f64(after_s)))
        }
        (None, Some(_)) => Err(invalid("after_s must be 0 to 315619200 seconds, which is ten years; give due_at else")),
        _ => Err(invalid("give due_at or after_s, one of them")),
    }
}

/// Nobody would fire it.
fn expected(service: &OrderService, id: &TimerId) -> Result<(), Problem> {
    let detail = || format!("timers of the kind {} are not expected here: see OVERDUE_TIMER_KINDS", id.kind());
    service.timers.is_expected(id).then_some(()).ok_or_else(|| Problem::new(ProblemKind::UnexpectedTimer, detail()))
}

async fn look_up(service: &OrderService, id: &TimerId) -> Result<Timer, Problem> {
    outbox::timer(&mut *service.pool.get().await?, id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &TimerId) -> Problem {
    Problem::new(ProblemKind::UnknownTimer, format!("there is no timer {id}"))
}

/// Another for each revision, and for each state that it may have.
fn tag(timer: &Timer) -> String {
    match timer.state {
        TimerState::Armed => format!("\"{}\"", timer.revision),
        state => format!("\"{}-{state}\"", timer.revision),
    }
}

fn answer(status: StatusCode, timer: Timer) -> Response {
    let tag = [(ETAG, tag(&timer))];
    (tag, Answer::new(status, &TimerView::from(timer))).into_response()
}
