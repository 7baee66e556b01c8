//! Bounds for every request: the size and the time of its body, and the time of its answer.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue};
use tower_http::classify::{ServerErrorsAsFailures, SharedClassifier};
use tower_http::trace::TraceLayer;
use trace::TraceParent;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::problem::{Problem, ProblemKind};

/// The most bytes that a request's body may have.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a client may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take once its body is here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

type Tracing = TraceLayer<SharedClassifier<ServerErrorsAsFailures>, fn(&Request) -> Span, (), Answered, (), (), ()>;
type Answered = fn(&Response, Duration, &Span);

/// The header that names a request, in requests and in answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that a client may give its request.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Gives each request a name, the client's own or a new one, which stands in the answer and in all that is logged meanwhile.
pub(crate) async fn named(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|name| is_name(name.as_bytes())).cloned();
    let name = given.unwrap_or_else(|| {
        let new = HeaderValue::try_from(Uuid::now_v7().to_string());
        new.unwrap_or(HeaderValue::from_static("unnamed"))
    });
    let span = tracing::info_span!("request", id = name.to_str().unwrap_or_default(), method = %request.method());
    request.extensions_mut().insert(Named(span.clone()));
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, name);
    response
}

/// The span that logs show.
#[derive(Clone)]
struct Named(Span);

fn is_name(name: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

/// Makes a span for each request, as part of the client's trace, and logs the answer.
pub(crate) fn tracing() -> Tracing {
    TraceLayer::new_for_http()
        .make_span_with(span as fn(&Request) -> Span)
        .on_request(())
        .on_response(answered as Answered)
        .on_body_chunk(())
        .on_eos(())
        .on_failure(())
}

fn span(request: &Request) -> Span {
    let parent: Option<TraceParent> =
        request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (method, path) = (request.method(), request.uri().path());
    let span = tracing::info_span!(target: trace::TARGET, "request", %method, path);
    trace::follow(&span, &[parent]);
    span
}

fn answered(response: &Response, took: Duration, _: &Span) {
    tracing::debug!(status = response.status().as_u16(), took_ms = took.as_millis(), "answered");
}

/// Reads the whole body first. That must not take long: a client that sends a byte now and then would keep others out.
pub(crate) async fn whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let problem = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(_)) => {
            let detail = format!("the body did not arrive whole, or has more than {BODY_BYTES_MAX} bytes");
            Problem::new(ProblemKind::BodyTooLarge, detail)
        }
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Problem::new(ProblemKind::BodyTooSlow, detail)
        }
    };
    ([(CONNECTION, "close")], problem).into_response()
}

/// Runs the request in a task of its own, within its time: work that has begun comes to its end, though the client hangs up
/// or time is out. Given up in the middle, it could leave a transaction open in the pool.
pub(crate) async fn to_the_end(request: Request, next: Next) -> Response {
    // Logs find their span only on the task's own stack, and not behind one that is for tracing alone.
    let named = request.extensions().get::<Named>().map_or_else(Span::none, |named| named.0.clone());
    let task = tokio::spawn(next.run(request).in_current_span().instrument(named));
    match tokio::time::timeout(REQUEST_TIMEOUT, task).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!(%error, "a request broke");
            Problem::new(ProblemKind::Internal, "a fault of this program; see the log").into_response()
        }
        Err(_) => {
            let detail =
                format!("not done within {} s; whether it was done is not known: look", REQUEST_TIMEOUT.as_secs());
            Problem::new(ProblemKind::Timeout, detail).into_response()
        }
    }
}
