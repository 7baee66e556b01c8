use axum::extract::{FromRequestParts, Path, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use hyper::body::Body as _;
use order::{Operator, OrderId, TimerId};
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::problem::{Problem, ProblemKind};

/// The most characters of a text that is kept in the log.
pub(crate) const TEXT_CHARACTERS_MAX: usize = 500;

/// One line, and something in it: what [`text`] checks, for the API's description.
pub(crate) const TEXT_PATTERN: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";

/// The parser's sentence names the field and the place, and repeats nothing of the body but names.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the body is not the JSON that is expected: {error}");
        Problem::new(ProblemKind::MalformedBody, detail)
    })
}

pub(crate) fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { parse(body) }
}

/// Dots alone are a part of no path: clients, and servers in between, take them for a way up.
pub(crate) fn order_id(text: &str) -> Result<OrderId, Problem> {
    let illegal = |detail: String| Problem::new(ProblemKind::IllegalOrderId, detail);
    if matches!(text, "." | "..") {
        return Err(illegal(format!("{text:?} cannot stand in a path: an order ID must not be one dot or two")));
    }
    OrderId::new(text).map_err(|error| illegal(error.to_string()))
}

/// The order that the path names.
pub(crate) struct PathOrder(pub(crate) OrderId);

/// As [`PathOrder`] takes it, for the API's description.
impl IntoParams for PathOrder {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9._:-]{1,64}$"));
        let parameter = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path).required(Required::True);
        vec![parameter.description(Some("an order ID")).schema(Some(id)).build()]
    }
}

/// The one word of the path that is a name.
pub(crate) struct PathWord(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathWord {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let word = Path::<String>::from_request_parts(parts, state).await;
        let not_text = |_| Problem::new(ProblemKind::IllegalOrderId, "the path is not UTF-8 text").nothing_there();
        word.map(|Path(word)| Self(word)).map_err(not_text)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathOrder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let PathWord(word) = PathWord::from_request_parts(parts, state).await?;
        order_id(&word).map(Self)
    }
}

/// The timer that the path names: kind and subject.
pub(crate) struct PathTimer(pub(crate) TimerId);

/// As [`PathTimer`] takes it, for the API's description.
impl IntoParams for PathTimer {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let word = |name: &str, pattern: &str, description: &str| {
            let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
            parameter.description(Some(description)).schema(Some(schema)).build()
        };
        let kind = "what it is about; none of payment, gateway, timer and webhook";
        vec![
            word("kind", "^(?!(?:payment|gateway|timer|webhook)$)[a-z][a-z0-9_]{0,15}$", kind),
            word("subject", "^(?!\\.{1,2}$)[A-Za-z0-9._:-]{1,64}$", "whose it is, such as an order's ID"),
        ]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathTimer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let illegal = |detail: String| Problem::new(ProblemKind::IllegalTimer, detail);
        let words = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((kind, subject)) =
            words.map_err(|_| illegal("the path is not UTF-8 text".to_owned()).nothing_there())?;
        if matches!(subject.as_str(), "." | "..") {
            return Err(illegal(format!("{subject:?} cannot stand in a path: a subject must not be one dot or two")));
        }
        TimerId::new(&kind, &subject).map(Self).map_err(|error| illegal(error.to_string()))
    }
}

/// Lets a request with a body through only if the body says that it is JSON. A web page may send anything else elsewhere
/// without being asked.
pub(crate) async fn require_json(request: Request, next: Next) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    // The whole body is here.
    if is_json || request.body().size_hint().exact() == Some(0) {
        return next.run(request).await;
    }
    let detail = "send the body as JSON, with the header Content-Type: application/json";
    Problem::new(ProblemKind::UnsupportedMediaType, detail).into_response()
}

/// Kind and name come together, or not at all.
pub(crate) fn operator(kind: Option<String>, name: Option<String>) -> Result<Option<Operator>, Problem> {
    match (kind, name) {
        (None, None) => Ok(None),
        (Some(kind), Some(name)) => {
            Ok(Some(Operator { kind: text("operator_type", kind)?, name: text("operator", name)? }))
        }
        _ => Err(invalid("operator_type and operator come together")),
    }
}

/// A text that is kept in the log.
pub(crate) fn text(name: &str, value: String) -> Result<String, Problem> {
    let length = value.chars().count();
    if value.trim().is_empty() || length > TEXT_CHARACTERS_MAX || value.chars().any(char::is_control) {
        return Err(invalid(&format!("{name} must have 1 to {TEXT_CHARACTERS_MAX} characters, in one line")));
    }
    Ok(value)
}

pub(crate) fn invalid(detail: &str) -> Problem {
    Problem::new(ProblemKind::InvalidRequest, detail)
}
