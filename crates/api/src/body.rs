use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::{BODY_BYTES_MAX, Problem};

/// The bytes of a request, not more than are allowed.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("a body may have {BODY_BYTES_MAX} bytes at most");
                return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail);
            }
            Problem::new(StatusCode::BAD_REQUEST, "unreadable-body", "the body did not arrive whole")
        })
    }
}

/// The parser's sentence names the field and the place, and repeats nothing of the body but names.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed-body",
            format!("the body is not the JSON that is expected: {error}"),
        )
    })
}

pub(crate) fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { parse(body) }
}
