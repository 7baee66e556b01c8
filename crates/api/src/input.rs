use order::{Operator, OrderId};
use serde::de::DeserializeOwned;

use crate::problem::{Problem, ProblemKind};

/// The most characters of a text that is kept in the log.
const TEXT_CHARACTERS_MAX: usize = 500;

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

pub(crate) fn order_id(text: &str) -> Result<OrderId, Problem> {
    OrderId::new(text).map_err(|error| Problem::new(ProblemKind::IllegalOrderId, error.to_string()))
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
