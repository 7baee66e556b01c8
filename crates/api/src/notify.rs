use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use book::Credited;
use http::{HeaderMap, StatusCode};
use worker::{NotificationError, NotificationOutcome};

use crate::input::PathWord;
use crate::problem::{Problem, ProblemKind};
use crate::service::OrderService;

/// Take a gateway's notification of a payment or of a refund. It is verified by its signature. Everything but 2xx has
/// the gateway send it again.
#[utoipa::path(post, path = "/payments/{gateway}/notify", tag = "payments", params(("gateway" = String, Path)),
    request_body(content = String, description = "the gateway's own form, with its signature in the headers"),
    responses((status = 204, description = "taken"),
              (status = 200, description = "taken; the body is what the gateway expects", body = String, content_type = "text/plain"),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn notify(
    State(service): State<Arc<OrderService>>,
    PathWord(gateway): PathWord,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    match service.notifications.take(&gateway, &headers, &body).await {
        Ok(NotificationOutcome::Credited(id, Credited::Unchanged)) => {
            // A trigger, perhaps, keeps it pending; the gateway is to try again.
            tracing::warn!(order = %id, gateway, "a payment could not be credited");
            Err(Problem::new(ProblemKind::NotCredited, "the order could not be changed; send it again"))
        }
        Ok(outcome) => {
            tracing::debug!(gateway, ?outcome, "a notification was taken");
            let (status, body) = match service.notifications.acknowledgement(&gateway) {
                Some(wanted) => (StatusCode::from_u16(wanted.status).unwrap_or(StatusCode::OK), wanted.body),
                None => (StatusCode::NO_CONTENT, ""),
            };
            Ok(if body.is_empty() { status.into_response() } else { (status, body).into_response() })
        }
        Err(error) => Err(problem(&service, &gateway, &error)),
    }
}

fn problem(service: &OrderService, gateway: &str, error: &NotificationError) -> Problem {
    match error {
        NotificationError::UnknownGateway(_) => {
            Problem::new(ProblemKind::UnknownGateway, error.to_string()).nothing_there()
        }
        NotificationError::Refused(fault) => {
            // Anybody may send them.
            if let Some(more) = service.warnings.lets_through(gateway) {
                tracing::warn!(gateway, %fault, more, "a notification was refused");
            }
            Problem::new(ProblemKind::NotificationRefused, "its signature or its content cannot be trusted")
        }
        NotificationError::Later(..) | NotificationError::Book(_) => {
            tracing::error!(gateway, %error, "a notification could not be taken");
            Problem::new(ProblemKind::NotTaken, "it cannot be recorded now; send it again")
        }
    }
}
