use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

use crate::problem::{Problem, ProblemKind};
use crate::service::OrderService;

/// How long the answer to a wrong token takes once wrong ones have come again and again: nobody guesses fast.
const BRAKE: Duration = Duration::from_secs(1);

/// Lets a request through only with the token. Where there is none, only programs of this machine may come, and no web page
/// that a browser of this machine shows.
pub(crate) async fn admit(State(service): State<Arc<OrderService>>, request: Request, next: Next) -> Response {
    let Some(token) = &service.token else {
        return match foreign(request.headers()) {
            None => next.run(request).await,
            Some(detail) => Problem::new(ProblemKind::ForeignOrigin, detail).into_response(),
        };
    };
    let presented = request.headers().get(AUTHORIZATION);
    if presented.and_then(|value| bearer(value.as_bytes())).is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    if presented.is_some() {
        match service.warnings.lets_through("token") {
            Some(more) => tracing::warn!(more, "a request came with a wrong token"),
            None => tokio::time::sleep(BRAKE).await,
        }
    }
    let problem = Problem::new(ProblemKind::Unauthorized, "a valid bearer token is needed");
    let mut response = problem.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What gives a request away that no program of this machine has sent: a browser names the page that had it sent, and the host
/// by which it has found us.
fn foreign(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let host = text("host").unwrap_or_default();
    if !is_loopback(&host) {
        return Some(format!(
            "without a token (OVERDUE_API_TOKEN) only this machine is served, under its own name, not {:?}: call 127.0.0.1, localhost or [::1]",
            host.chars().take(100).collect::<String>()
        ));
    }
    let page = text("origin").filter(|origin| origin.split_once("://").is_none_or(|(_, from)| from != host));
    let elsewhere = text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    (page.is_some() || elsewhere)
        .then(|| "without a token (OVERDUE_API_TOKEN) no web page of elsewhere is served".to_owned())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found_in_its_header() {
        assert_eq!(bearer(b"Bearer  abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
    }

    #[test]
    fn without_a_token_only_programs_of_this_machine_are_served() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
        };
        for ours in [
            &[("host", "127.0.0.1:8080")][..],
            &[("host", "LOCALHOST")],
            &[("host", "[::1]:8080")],
            &[("host", "[::1]")],
            &[("host", "127.9.9.9:1"), ("sec-fetch-site", "same-origin"), ("origin", "http://127.9.9.9:1")],
        ] {
            assert_eq!(foreign(&headers(ours)), None, "{ours:?}");
        }
        for theirs in [
            &[][..],
            &[("host", "shop.example")],
            &[("host", "127.0.0.1.shop.example:8080")],
            &[("host", "localhost"), ("origin", "https://shop.example")],
            &[("host", "localhost:1"), ("origin", "http://localhost:2")],
            &[("host", "localhost"), ("origin", "null")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
        ] {
            assert!(foreign(&headers(theirs)).is_some(), "{theirs:?}");
        }
    }
}
