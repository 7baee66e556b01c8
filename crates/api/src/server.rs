use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONNECTION;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use trace::TraceParent;
use tracing::Instrument;

use crate::{BODY_BYTES_MAX, Problem};

/// A port that is listened at.
pub struct Listener(TcpListener);

/// How many connections there may be; others wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take, body and answer included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests that are under way may take once the server is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Listener {
    /// Listens at this address.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(address).await?))
    }

    /// The address that it listens at.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Serves until `shutdown`; then finishes the requests that are under way.
pub async fn serve(listener: Listener, router: Router, shutdown: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener.0, &permits) => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely too many open files: nothing is gained by trying again at once.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that breaks off, or speaks something else, is no concern of ours.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

/// The request with all of its body, which must not take long: a client that sends a byte now and then would keep others out.
async fn whole(request: Request) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => {
            let detail = format!("the body did not arrive whole, or has more than {BODY_BYTES_MAX} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail))
        }
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail))
        }
    }
}

/// Bounds the time of a request, and logs it.
pub(crate) async fn in_time(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begun = Instant::now();
    let parents: Vec<TraceParent> =
        request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok()?.parse().ok()).into_iter().collect();
    let span = tracing::info_span!(target: trace::TARGET, "request", %method, path);
    trace::follow(&span, &parents);
    let request = match whole(request).await {
        Ok(request) => request,
        Err(problem) => return ([(CONNECTION, "close")], problem).into_response(),
    };
    // A task of its own: what has begun comes to its end, though the client hangs up or time is out. Given up in the
    // middle, it could leave a transaction open in the pool.
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, tokio::spawn(next.run(request).instrument(span))).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!(%error, %method, path, "a request broke");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a fault of this program; see the log")
                .into_response()
        }
        Err(_) => {
            let detail = format!("not done within {} s; whether it was is not known: look", REQUEST_TIMEOUT.as_secs());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).into_response()
        }
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), took_ms = begun.elapsed().as_millis(), "answered");
    response
}
