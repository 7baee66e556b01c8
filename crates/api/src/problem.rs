use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use publisher::{DatabaseError, OrderError};
use serde::Serialize;
use utoipa::ToSchema;

/// An error, as problem details (RFC 9457), with the media type `application/problem+json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem, for machines: `urn:overdue:problem:` and a stable name.
    #[serde(rename = "type")]
    kind: String,
    /// The same for people.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong this time, and what to do.
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, name: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:overdue:problem:{name}"),
            title: name.replace('-', " "),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the same request may come to something later.
    pub(crate) fn is_passing(&self) -> bool {
        self.status >= 500
    }

    pub(crate) fn body(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The media type of problem details.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status(), [(CONTENT_TYPE, PROBLEM_JSON)], self.body() + "\n").into_response()
    }
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        let (status, name) = match &error {
            OrderError::Database(error) => return Self::from_database(error),
            OrderError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-order"),
            OrderError::Exists(_) => (StatusCode::CONFLICT, "order-exists"),
            OrderError::NotEnoughStock { .. } => (StatusCode::CONFLICT, "not-enough-stock"),
            OrderError::NotPending { .. } => (StatusCode::CONFLICT, "order-not-pending"),
            OrderError::Overdue { .. } => (StatusCode::CONFLICT, "order-overdue"),
            OrderError::NotLater { .. } => (StatusCode::CONFLICT, "not-later"),
            OrderError::UnknownSku(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unknown-sku"),
            OrderError::NoItems | OrderError::BadQuantity(_) | OrderError::BadAmount | OrderError::BadTimeout => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid-order")
            }
        };
        Self::new(status, name, error.to_string())
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        Self::from_database(&error)
    }
}

impl Problem {
    /// What the database says is for the log, not for whoever asked.
    fn from_database(error: &DatabaseError) -> Self {
        let refused = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        if refused.is_some_and(|code| code.starts_with("22") || code.starts_with("23")) {
            tracing::warn!(%error, "the database refused what a request asked for");
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "the database refuses a value; see the log");
        }
        tracing::error!(%error, "a request could not be answered");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database-away", "the database cannot be used now; try again")
    }
}

pub(crate) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-resource", "there is nothing at this path; see /openapi.json")
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "not with this method; see /openapi.json")
}
