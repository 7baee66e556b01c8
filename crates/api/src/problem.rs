use axum::response::{IntoResponse, Response};
use database::{DatabaseError, means_busy};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shop::{OrderError, SqlError};
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

/// The kinds of problems. Their names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// No bearer token, or a wrong one.
    Unauthorized,
    /// The body has more bytes than a body may have, or did not arrive whole.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is of another media type than JSON.
    UnsupportedMediaType,
    /// The request comes from a web page of elsewhere, or names another host.
    ForeignOrigin,
    /// The body is not the JSON that is expected.
    MalformedBody,
    /// A fault of this program.
    Internal,
    /// The request took too long. Whether it was done is not known.
    Timeout,
    /// There is nothing at this path.
    NoSuchResource,
    /// Not with this method.
    MethodNotAllowed,
    /// A request with this idempotency key is being worked at.
    RequestInFlight,
    /// This idempotency key was used for another request.
    IdempotencyKeyReused,
    /// This request needs an idempotency key.
    IdempotencyKeyMissing,
    /// The idempotency key has characters that a key cannot have, or too many.
    BadIdempotencyKey,
    /// A notification told of a payment that the order does not take.
    NotCredited,
    /// A notification cannot be taken now.
    NotTaken,
    /// A server that the process needs does not answer.
    NotReady,
    /// The new deadline is no later than the one that the order has.
    NotLater,
    /// Less stock is available than ordered.
    NotEnoughStock,
    /// A notification whose signature or content cannot be trusted.
    NotificationRefused,
    /// The metrics cannot be written.
    NoMetrics,
    /// The database cannot be used now.
    DatabaseAway,
    /// The database refuses a value.
    Refused,
    /// A field of the request has a value that it cannot have.
    InvalidRequest,
    /// An order as it cannot be.
    InvalidOrder,
    /// An order ID has characters that an ID cannot have, or too many.
    IllegalOrderId,
    /// There is no such order.
    UnknownOrder,
    /// There is no such SKU.
    UnknownSku,
    /// No gateway of this name is configured.
    UnknownGateway,
    /// There is an order with this ID already.
    OrderExists,
    /// The order is paid, cancelled or closed already.
    OrderNotPending,
    /// The order is past its deadline and about to be closed.
    OrderOverdue,
    /// Another transaction holds the order, or stock of it, or the timer.
    OrderLocked,
    /// A timer's kind or subject has characters that it cannot have, or too many.
    IllegalTimer,
    /// Timers of this kind are not among those that are expected.
    UnexpectedTimer,
    /// There is no such timer.
    UnknownTimer,
    /// The timer has fired, or was cancelled.
    TimerNotArmed,
    /// What is to be changed is not as the client has seen it.
    PreconditionFailed,
}

/// The media type of problem details.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 38] = [
        Self::Unauthorized,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::UnsupportedMediaType,
        Self::ForeignOrigin,
        Self::MalformedBody,
        Self::Internal,
        Self::Timeout,
        Self::NoSuchResource,
        Self::MethodNotAllowed,
        Self::RequestInFlight,
        Self::IdempotencyKeyReused,
        Self::IdempotencyKeyMissing,
        Self::BadIdempotencyKey,
        Self::NotCredited,
        Self::NotTaken,
        Self::NotReady,
        Self::NotLater,
        Self::NotEnoughStock,
        Self::NotificationRefused,
        Self::NoMetrics,
        Self::DatabaseAway,
        Self::Refused,
        Self::InvalidRequest,
        Self::InvalidOrder,
        Self::IllegalOrderId,
        Self::UnknownOrder,
        Self::UnknownSku,
        Self::UnknownGateway,
        Self::OrderExists,
        Self::OrderNotPending,
        Self::OrderOverdue,
        Self::OrderLocked,
        Self::IllegalTimer,
        Self::UnexpectedTimer,
        Self::UnknownTimer,
        Self::TimerNotArmed,
        Self::PreconditionFailed,
    ];

    /// The status and the name, the last part of the URN.
    #[must_use]
    pub fn status_and_name(self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, "body-too-slow"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, "foreign-origin"),
            Self::MalformedBody => (StatusCode::BAD_REQUEST, "malformed-body"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Self::NoSuchResource => (StatusCode::NOT_FOUND, "no-such-resource"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::RequestInFlight => (StatusCode::CONFLICT, "request-in-flight"),
            Self::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"),
            Self::IdempotencyKeyMissing => (StatusCode::BAD_REQUEST, "idempotency-key-missing"),
            Self::BadIdempotencyKey => (StatusCode::BAD_REQUEST, "bad-idempotency-key"),
            Self::NotCredited => (StatusCode::SERVICE_UNAVAILABLE, "not-credited"),
            Self::NotTaken => (StatusCode::SERVICE_UNAVAILABLE, "not-taken"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            Self::NotLater => (StatusCode::CONFLICT, "not-later"),
            Self::NotEnoughStock => (StatusCode::CONFLICT, "not-enough-stock"),
            Self::NotificationRefused => (StatusCode::UNAUTHORIZED, "notification-refused"),
            Self::NoMetrics => (StatusCode::INTERNAL_SERVER_ERROR, "no-metrics"),
            Self::DatabaseAway => (StatusCode::SERVICE_UNAVAILABLE, "database-away"),
            Self::Refused => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            Self::InvalidRequest => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-request"),
            Self::InvalidOrder => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-order"),
            Self::IllegalOrderId => (StatusCode::UNPROCESSABLE_ENTITY, "illegal-order-id"),
            Self::UnknownOrder => (StatusCode::NOT_FOUND, "unknown-order"),
            Self::UnknownSku => (StatusCode::UNPROCESSABLE_ENTITY, "unknown-sku"),
            Self::UnknownGateway => (StatusCode::UNPROCESSABLE_ENTITY, "unknown-gateway"),
            Self::OrderExists => (StatusCode::CONFLICT, "order-exists"),
            Self::OrderNotPending => (StatusCode::CONFLICT, "order-not-pending"),
            Self::OrderOverdue => (StatusCode::CONFLICT, "order-overdue"),
            Self::OrderLocked => (StatusCode::SERVICE_UNAVAILABLE, "order-locked"),
            Self::IllegalTimer => (StatusCode::UNPROCESSABLE_ENTITY, "illegal-timer"),
            Self::UnexpectedTimer => (StatusCode::UNPROCESSABLE_ENTITY, "unexpected-timer"),
            Self::UnknownTimer => (StatusCode::NOT_FOUND, "unknown-timer"),
            Self::TimerNotArmed => (StatusCode::CONFLICT, "timer-not-armed"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition-failed"),
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let (status, name) = kind.status_and_name();
        Self {
            kind: format!("urn:overdue:problem:{name}"),
            title: name.replace('-', " "),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// Nothing under this path: the name in it belongs to nothing.
    pub(crate) fn nothing_there(self) -> Self {
        Self { status: StatusCode::NOT_FOUND.as_u16(), ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        self.status >= 500
    }

    pub(crate) fn is(&self, kind: ProblemKind) -> bool {
        self.kind.ends_with(&format!(":{}", kind.status_and_name().1))
    }

    pub(crate) fn body(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let passing = self.status == StatusCode::SERVICE_UNAVAILABLE.as_u16();
        let mut response = (self.status(), [(CONTENT_TYPE, PROBLEM_JSON)], self.body() + "\n").into_response();
        if passing {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        let error = match error {
            OrderError::Database(error) => return error.into(),
            error => error,
        };
        let kind = match &error {
            OrderError::Database(_) => ProblemKind::DatabaseAway,
            OrderError::Unknown(_) => ProblemKind::UnknownOrder,
            OrderError::Exists(_) => ProblemKind::OrderExists,
            OrderError::NotEnoughStock { .. } => ProblemKind::NotEnoughStock,
            OrderError::NotPending { .. } | OrderError::NotClosed { .. } | OrderError::TradeGone { .. } => {
                ProblemKind::OrderNotPending
            }
            OrderError::Overdue { .. } => ProblemKind::OrderOverdue,
            OrderError::NotLater { .. } => ProblemKind::NotLater,
            OrderError::UnknownSku(_) => ProblemKind::UnknownSku,
            OrderError::NoItems
            | OrderError::BadQuantity(_)
            | OrderError::BadAmount
            | OrderError::NothingToPay
            | OrderError::BadTradeNo(_)
            | OrderError::BadTimeout => ProblemKind::InvalidOrder,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        database_away(&error)
    }
}

/// Whether a statement has waited too long for a lock. PostgreSQL ends such a wait by cancelling the statement. If the lock comes
/// in that very moment, and the statement goes on to wait for the next one, it has forgotten why it is cancelled, and calls it the
/// request of a user (`ProcessInterrupts`, `src/backend/tcop/postgres.c`).
fn waited_for_lock(code: &str, message: &str) -> bool {
    code == "55P03" || (code == "57014" && message.contains("user request"))
}

impl From<SqlError> for Problem {
    /// The words of the database are for the log, not for the client.
    fn from(error: SqlError) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        let message = error.as_database_error().map_or("", |error| error.message());
        match code.get(..2) {
            _ if waited_for_lock(&code, message) => Self::new(
                ProblemKind::OrderLocked,
                "another transaction holds the order, or stock of it, or the timer; try again",
            ),
            // Words of our own.
            _ if code == "OV004" => {
                let detail = error.as_database_error().map_or(String::new(), |error| error.message().to_owned());
                Self::new(ProblemKind::InvalidRequest, detail)
            }
            // Without an answer; a server that cannot now; a right, a table or a column that is missing.
            None | Some("25" | "3D" | "3F" | "42") => database_away(&error),
            _ if means_busy(&code) => database_away(&error),
            // A value, a rule, or a trigger of the shop's own, whatever its code.
            Some(_) => {
                tracing::warn!(%error, "the database refused what a request asked for");
                Self::new(ProblemKind::Refused, "the database refuses it; see the log")
            }
        }
    }
}

fn database_away(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "a request could not be answered");
    Problem::new(ProblemKind::DatabaseAway, "the database cannot be used now; try again")
}

pub(crate) async fn not_found() -> Problem {
    Problem::new(ProblemKind::NoSuchResource, "there is nothing at this path; see /openapi.json")
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, "not with this method; see /openapi.json")
}
