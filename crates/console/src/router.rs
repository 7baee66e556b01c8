use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use book::{NewAction, OperatorActions};
use http::header::{CACHE_CONTROL, SET_COOKIE, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

use crate::access::{Refusal, foreign};
use crate::action::Action;
use crate::ask::{Ask, LANGUAGE_COOKIE, language};
use crate::console::{Console, Parts};
use crate::fields::Fields;
use crate::page::{
    actions, checks, failure, gateways, lanes, now, orders, parked, parked_message, processes, refunds, story, timers,
};
use crate::text::Language;
use crate::{act, asset};

/// The pages, each with an example of what it is asked for.
pub const PAGES: [&str; 14] = [
    "/console",
    "/console/lanes",
    "/console/orders",
    "/console/orders/A-1",
    "/console/parked",
    "/console/parked/list?reason=unknown_order",
    "/console/parked/confirm?action=drop&reason=unknown_order&until=1",
    "/console/refunds",
    "/console/gateways",
    "/console/processes",
    "/console/timers",
    "/console/doctor",
    "/console/audit",
    "/console/actions",
];

/// Nothing but files of our own is loaded, no script stands in a page, and no page stands in another's frame
/// (<https://www.w3.org/TR/CSP3/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The most bytes of a form.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Everything under `/console`.
pub fn router(parts: Parts) -> Router {
    let console = Arc::new(Console::new(parts));
    let pages = Router::new()
        .route("/console", get(now::show))
        .route("/console/lanes", get(lanes::show))
        .route("/console/orders", get(orders::show))
        .route("/console/orders/{id}", get(story::show))
        .route("/console/parked", get(parked::groups))
        .route("/console/parked/list", get(parked::list))
        .route("/console/parked/confirm", get(parked::confirm))
        .route("/console/parked/{id}", get(parked_message::show))
        .route("/console/refunds", get(refunds::show))
        .route("/console/gateways", get(gateways::show))
        .route("/console/processes", get(processes::show))
        .route("/console/timers", get(timers::show))
        .route("/console/doctor", get(checks::doctor))
        .route("/console/audit", get(checks::audit))
        .route("/console/actions", get(actions::show))
        .route("/console/language", get(choose_language))
        .route("/console/act/{action}", post(do_action))
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/console/{*rest}", get(nothing))
        // From the last to the first: who it is, whether the page is ours, whether it may change anything.
        .layer(from_fn_with_state(Arc::clone(&console), only_look))
        .layer(from_fn_with_state(Arc::clone(&console), only_ours))
        .layer(from_fn_with_state(Arc::clone(&console), admit))
        .with_state(console);
    // What the pages load is no secret, and the page that asks for a password loads it, too.
    pages.route("/console/assets/{name}", get(asset::serve)).layer(from_fn(guard))
}

/// Headers that every answer has.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert(VARY, HeaderValue::from_static("Cookie, Accept-Language"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn admit(State(console): State<Arc<Console>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<IpAddr>().copied();
    match console.access.admit(request.version(), request.headers(), peer).await {
        Ok(visitor) => {
            let ask = Ask::new(visitor, request.uri(), request.headers());
            request.extensions_mut().insert(ask);
            next.run(request).await
        }
        Err(Refusal::Foreign(why)) => failure::plain(StatusCode::FORBIDDEN, language(request.headers()), &why),
        Err(Refusal::TooMany) => {
            let why = "too many names and passwords came from this address; wait a minute / 尝试次数过多，请稍候";
            failure::plain(StatusCode::TOO_MANY_REQUESTS, language(request.headers()), why)
        }
        Err(Refusal::LogIn { were_wrong }) => {
            if were_wrong && let Some(more) = console.warnings.lets_through("password") {
                tracing::warn!(?peer, more, "somebody came to the console with a wrong name or password");
            }
            let why = "name and password are needed / 需要用户名和密码";
            let mut response = failure::plain(StatusCode::UNAUTHORIZED, language(request.headers()), why);
            let challenge = HeaderValue::from_static("Basic realm=\"Overdue\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            response
        }
    }
}

async fn only_ours(
    State(console): State<Arc<Console>>,
    Extension(ask): Extension<Ask>,
    request: Request,
    next: Next,
) -> Response {
    match foreign(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(why) => refused(&console, &ask, request, &why).await,
    }
}

/// Read-only is this, and nothing else: who may only look gets past it with no other method than GET.
async fn only_look(
    State(console): State<Arc<Console>>,
    Extension(ask): Extension<Ask>,
    request: Request,
    next: Next,
) -> Response {
    if ask.may_act() || matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    refused(&console, &ask, request, ask.texts().why_disabled).await
}

/// Writes down what was refused, and says why.
async fn refused(console: &Console, ask: &Ask, request: Request, why: &str) -> Response {
    let path = request.uri().path().to_owned();
    let body = to_bytes(request.into_body(), FORM_BYTES_MAX).await.unwrap_or_default();
    let fields = Fields::parse(&body);
    let slug = path.strip_prefix("/console/act/").unwrap_or_default();
    let refused = NewAction {
        operator: ask.visitor.name.clone(),
        role: ask.visitor.role.as_str().to_owned(),
        address: ask.visitor.address.clone(),
        action: Action::parse(slug).map_or_else(|| "unknown".to_owned(), Action::name),
        subject: act::subject(Action::parse(slug), &fields),
        note: None,
        before: None,
        total: None,
    };
    // It is refused also if that cannot be written down.
    if !console.refusals.lets_through(&refused.operator) {
        if let Some(more) = console.warnings.lets_through("refusals") {
            tracing::warn!(
                operator = refused.operator,
                more,
                "so many actions were refused that no more are written down for now"
            );
        }
    } else if let Err(error) = OperatorActions::new(console.client.clone()).refused(&refused, why).await {
        tracing::warn!(%error, "a refused action cannot be written down");
    }
    failure::refused(console, ask.clone(), why).await
}

async fn do_action(
    State(console): State<Arc<Console>>,
    Extension(ask): Extension<Ask>,
    Path(slug): Path<String>,
    body: Bytes,
) -> Response {
    match Action::parse(&slug) {
        Some(action) => act::run(console, ask, action, Fields::parse(&body)).await,
        None => failure::not_found(&console, ask).await,
    }
}

async fn nothing(State(console): State<Arc<Console>>, Extension(ask): Extension<Ask>) -> Response {
    failure::not_found(&console, ask).await
}

/// Keeps a choice of language for a year, and goes back to the page.
async fn choose_language(Extension(ask): Extension<Ask>) -> Response {
    let back = Some(ask.query.get("back")).filter(|back| is_ours(back)).unwrap_or("/console");
    let language = Language::parse(ask.query.get("to")).unwrap_or(ask.language);
    let cookie =
        format!("{LANGUAGE_COOKIE}={}; Path=/console; Max-Age=31536000; SameSite=Lax; HttpOnly", language.code());
    let mut response = Redirect::to(back).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Whether an address leads to a page of this console, and nowhere else.
fn is_ours(path: &str) -> bool {
    let inside = path == "/console" || ["/console/", "/console?"].iter().any(|begin| path.starts_with(begin));
    inside && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_choice_of_language_nobody_is_sent_elsewhere() {
        assert!(is_ours("/console") && is_ours("/console/orders/A%2F1?every=5") && is_ours("/console?every=5"));
        for elsewhere in
            ["", "//evil", "/consoles", "https://evil/console/", "/console/\\evil", "/console/\r\nx: y", "/orders"]
        {
            assert!(!is_ours(elsewhere), "{elsewhere:?}");
        }
    }

    #[test]
    fn every_action_has_a_name_of_its_own() {
        for action in Action::ALL {
            assert_eq!(Action::parse(action.slug()), Some(action));
            assert!(action.name().contains('.'));
        }
    }
}
