//! Answers that a client need not be sent again.

use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// How many bytes of the digest are enough to tell two states of an order apart.
const TAG_BYTES: usize = 16;

/// Caches may keep it, and ask each time whether it holds still: an order may be paid at any moment.
const ASK_FIRST: &str = "private, no-cache";

/// This body with an entity tag made of it; without a body, where the client has it already
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2>).
pub(crate) fn tagged(asked: &HeaderMap, body: &impl Serialize) -> Response {
    let body = text(body);
    let tag = format!("\"{}\"", HEXLOWER.encode(&Sha256::digest(body.as_bytes())[..TAG_BYTES]));
    answer(asked, &tag, body)
}

/// The same with a tag that is given.
pub(crate) fn tagged_as(asked: &HeaderMap, tag: &str, body: &impl Serialize) -> Response {
    answer(asked, tag, text(body))
}

/// Whether the client wants a change only of what has this tag, and it has another
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1>). `None`: there is nothing yet.
pub(crate) fn is_other(asked: &HeaderMap, tag: Option<&str>) -> bool {
    let values: Vec<&str> = asked.get_all(IF_MATCH).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut tags = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    asked.contains_key(IF_MATCH) && !tags.any(|wanted| tag.is_some() && (wanted == "*" || Some(wanted) == tag))
}

/// With a line end, for a person who reads it in a terminal.
fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default() + "\n"
}

fn answer(asked: &HeaderMap, tag: &str, body: String) -> Response {
    let headers = [(ETAG, tag), (CACHE_CONTROL, ASK_FIRST)];
    match has_it(asked, tag) {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, [(CONTENT_TYPE, "application/json")], body).into_response(),
    }
}

/// Compared weakly, as the RFC asks for here.
pub(crate) fn has_it(asked: &HeaderMap, tag: &str) -> bool {
    let values = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_wanted_of_what_the_client_has_seen_only() {
        let other = |wanted: Option<&str>, tag| {
            is_other(&HeaderMap::from_iter(wanted.map(|wanted| (IF_MATCH, wanted.parse().unwrap()))), tag)
        };
        assert!(!other(None, None) && !other(None, Some("\"7\"")), "any");
        assert!(!other(Some("\"7\""), Some("\"7\"")) && !other(Some("\"6\", \"7\""), Some("\"7\"")));
        assert!(!other(Some("*"), Some("\"7\"")) && other(Some("*"), None));
        assert!(other(Some("\"6\""), Some("\"7\"")) && other(Some("W/\"7\""), Some("\"7\"")) && other(Some("7"), None));
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let first = tagged(&HeaderMap::new(), &"pending");
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        let status = |known: &str, body: &str| {
            let asked = HeaderMap::from_iter([(IF_NONE_MATCH, known.parse().unwrap())]);
            tagged(&asked, &body).status()
        };
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            assert_eq!(status(&known, "pending"), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(status(&tag, "paid"), StatusCode::OK);
        assert_eq!(status("\"x\"", "pending"), StatusCode::OK);
    }
}
