use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::Problem;

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
