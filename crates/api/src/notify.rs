use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use worker::{Credited, NotificationError, Notified, take_notification};

use crate::{Problem, Shop};

/// Take a gateway's notification of a payment or of a refund. It is verified by its signature. Everything but 2xx has
/// the gateway send it again.
#[utoipa::path(post, path = "/payments/{gateway}/notify", tag = "payments", params(("gateway" = String, Path)),
    request_body(content = String, description = "whatever the gateway sends, with its signature in the headers"),
    responses((status = 204, description = "taken"),
              (status = "4XX", body = Problem, content_type = "application/problem+json"),
              (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn notify(
    State(shop): State<Arc<Shop>>,
    Path(gateway): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    match take_notification(&shop.gateways, &shop.book, &gateway, &headers, &body).await {
        Ok(Notified::Credited(id, Credited::Unchanged)) => {
            // Something keeps it pending; the gateway is to try again.
            tracing::warn!(order = %id, gateway, "a payment could not be credited");
            Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-credited",
                "the order could not be changed; send it again",
            ))
        }
        Ok(notified) => {
            tracing::debug!(gateway, ?notified, "a notification was taken");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Err(error) => Err(problem(&gateway, &error)),
    }
}

fn problem(gateway: &str, error: &NotificationError) -> Problem {
    match error {
        NotificationError::UnknownGateway(_) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown-gateway", error.to_string())
        }
        NotificationError::Refused(fault) => {
            tracing::warn!(gateway, %fault, "a notification was refused");
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "notification-refused",
                "its signature or its content cannot be trusted",
            )
        }
        NotificationError::Unreadable(..) | NotificationError::Book(_) => {
            tracing::error!(gateway, %error, "a notification could not be taken");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-taken", "it cannot be written down now; send it again")
        }
    }
}
