//! The header `Idempotency-Key`, as the IETF's draft has it: missing where it is needed 400, in flight 409, another
//! request under the same key 422, done before: the same answer once more.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use database::SqlxPool;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};
use shop::{Claim, Request, abandon_request, claim_request, finish_request};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

use crate::problem::{PROBLEM_JSON, Problem, ProblemKind};

/// An answer that can be kept: a status and a JSON body.
pub(crate) struct Answer {
    status: StatusCode,
    body: String,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: serde_json::to_string(body).unwrap_or_default() }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let kind = if self.status.as_u16() < 400 { "application/json" } else { PROBLEM_JSON };
        // With a line end, for a person who reads it in a terminal.
        (self.status, [(CONTENT_TYPE, kind)], self.body + "\n").into_response()
    }
}

/// A caller that has taken a request up and not finished it within this time is presumed dead. Longer than a request may
/// take.
const LEASE: Duration = Duration::from_secs(60);

/// The longest key.
const KEY_BYTES_MAX: usize = 255;

/// The header, for the API's description: one that may be left out, or not.
pub(crate) struct KeyHeader<const REQUIRED: bool>;

impl<const REQUIRED: bool> IntoParams for KeyHeader<REQUIRED> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let (required, of_type): (Required, SchemaType) = match REQUIRED {
            true => (Required::True, Type::String.into()),
            false => (Required::False, SchemaType::from_iter([Type::String, Type::Null])),
        };
        let key = ObjectBuilder::new().schema_type(of_type).min_length(Some(1)).max_length(Some(KEY_BYTES_MAX));
        let parameter = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        vec![parameter.required(required).schema(Some(key.pattern(Some("^[!-~]+$")))).build()]
    }
}

/// Does the work once for a key, and without a key each time. The work gets the request, so that it can mark it as changed
/// in its own transaction.
pub(crate) async fn once<F: Future<Output = Result<Answer, Problem>>>(
    pool: &SqlxPool,
    headers: &HeaderMap,
    target: &str,
    body: &[u8],
    work: impl FnOnce(Option<Request>) -> F,
) -> Result<Response, Problem> {
    let Some(key) = key(headers)? else { return Ok(work(None).await?.into_response()) };
    let fingerprint = fingerprint(target, body);
    let claim = claim_request(&mut *pool.get().await?, &key, &fingerprint, LEASE).await?;
    let request = match claim {
        Claim::Yours(request) => request,
        Claim::Done { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = Answer { status, body }.into_response();
            response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            return Ok(response);
        }
        Claim::InFlight => {
            let detail = "a request with this Idempotency-Key is being worked at; ask again later";
            return Err(Problem::new(ProblemKind::RequestInFlight, detail));
        }
        Claim::OtherRequest => {
            let detail = "this Idempotency-Key was used for another request; use a new one";
            return Err(Problem::new(ProblemKind::IdempotencyKeyReused, detail));
        }
    };
    let answer = match work(Some(request.clone())).await {
        // Nothing was done: the next one may try.
        Err(problem) if problem.is_passing() => {
            abandon_request(&mut *pool.get().await?, &request).await?;
            return Err(problem);
        }
        Err(problem) => Answer { status: problem.status(), body: problem.body() },
        Ok(answer) => answer,
    };
    finish_request(&mut *pool.get().await?, &request, answer.status.as_u16(), &answer.body).await?;
    Ok(answer.into_response())
}

/// Fails without a key: for requests that must not be done twice by accident.
pub(crate) fn require_key(headers: &HeaderMap) -> Result<(), Problem> {
    match key(headers)? {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            ProblemKind::IdempotencyKeyMissing,
            "this needs the header Idempotency-Key: a value of your own choice, new for each new request, such as a UUID",
        )),
    }
}

/// The draft's form is a text in quotes. Many clients leave the quotes out.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let bad = || {
        let detail = format!("the Idempotency-Key must be 1 to {KEY_BYTES_MAX} visible ASCII characters");
        Problem::new(ProblemKind::BadIdempotencyKey, detail)
    };
    let text = value.to_str().map_err(|_| bad())?.trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad());
    }
    Ok(Some(key.to_owned()))
}

fn fingerprint(target: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(target.as_bytes());
    hash.update([0]);
    hash.update(body);
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_with_and_without_quotes() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::from_str(value).unwrap());
            key(&headers).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(with("\"8e03978e\""), Ok(Some("8e03978e".to_owned())));
        assert_eq!(with("8e03978e"), Ok(Some("8e03978e".to_owned())));
        assert_eq!(with("\"\""), Err(400));
        assert_eq!(with("two words"), Err(400));
        assert_eq!(key(&HeaderMap::new()).ok(), Some(None));
    }
}
