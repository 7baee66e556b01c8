use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use ring::signature::RsaKeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{Keys, Ledger, Mishap, Signer, control, service, wechat};

/// The gateway, serving on 127.0.0.1 until it is dropped.
pub struct Simulator {
    address: SocketAddr,
    state: Arc<Shared>,
    task: JoinHandle<()>,
}

/// How it was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Calls of merchants, whatever became of them.
    pub calls: u64,
    /// How many were under way at the same time, at most.
    pub in_flight_max: u64,
}

pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) merchant_public_key: Vec<u8>,
    signers: HashMap<&'static str, (String, RsaKeyPair)>,
    knobs: Mutex<Knobs>,
    calls: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    /// The last answers, to be replayed: by kind of call.
    last: Mutex<HashMap<&'static str, Reply>>,
}

/// What holds for all calls.
#[derive(Clone)]
pub(crate) struct Knobs {
    pub(crate) signer: Signer,
    pub(crate) delay: Duration,
    /// What goes wrong with every call.
    pub(crate) outage: Option<Mishap>,
}

/// A request, read.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// An answer; `None` of it: the connection breaks.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) drip: Option<Duration>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string().into_bytes()).with("content-type", "application/json")
    }

    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, headers: Vec::new(), body, drip: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Headers as HTTP libraries have them.
pub(crate) fn header_map(headers: &[(&'static str, String)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, String)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
    };
    headers.iter().filter_map(header).collect()
}

/// The most bytes of a request.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

impl Simulator {
    /// Serves on this port of 127.0.0.1 (0: any that is free).
    ///
    /// # Errors
    /// If the port is taken or the keys cannot be used.
    pub async fn start(port: u16, keys: Keys) -> anyhow::Result<Self> {
        let mut signers = HashMap::new();
        for (name, signer) in SIGNERS {
            signers.insert(name, (keys.serial(signer)?, keys.sign_with(signer)?));
        }
        let state = Arc::new(Shared {
            ledger: Ledger::default(),
            merchant_public_key: keys.merchant_public_key()?,
            keys,
            signers,
            knobs: Mutex::new(Knobs { signer: Signer::Certificate1, delay: Duration::ZERO, outage: None }),
            calls: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_max: AtomicU64::new(0),
            last: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, task })
    }

    /// Where WeChat Pay's API is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the signed HTTP contract is.
    #[must_use]
    pub fn service_url(&self) -> String {
        format!("http://{}/service", self.address)
    }

    /// What is true.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.state.keys
    }

    /// Signs with this key from now on.
    pub fn sign_with(&self, signer: Signer) {
        self.state.knobs().signer = signer;
    }

    /// Each call takes this much longer from now on.
    pub fn delay(&self, delay: Duration) {
        self.state.knobs().delay = delay;
    }

    /// From now on this goes wrong with every call; `None`: nothing.
    pub fn outage(&self, mishap: Option<Mishap>) {
        self.state.knobs().outage = mishap;
    }

    /// How it was called.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.state.statistics()
    }

    /// A notification of WeChat Pay about a trade as it stands: headers and body.
    #[must_use]
    pub fn notification(&self, trade_no: &str) -> (HeaderMap, Vec<u8>) {
        wechat::notification(&self.state, trade_no)
    }

    /// A notification of WeChat Pay about a refund as it stands: headers and body.
    #[must_use]
    pub fn refund_notification(&self, refund_no: &str) -> (HeaderMap, Vec<u8>) {
        wechat::refund_notification(&self.state, refund_no)
    }

    /// A notification of the signed HTTP contract about a trade as it stands: headers and body.
    #[must_use]
    pub fn service_notification(&self, trade_no: &str) -> (HeaderMap, Vec<u8>) {
        service::notification(&self.state, trade_no)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const SIGNERS: [(&str, Signer); 4] = [
    ("certificate 1", Signer::Certificate1),
    ("certificate 2", Signer::Certificate2),
    ("public key", Signer::PublicKey),
    ("unknown", Signer::Unknown),
];

impl Shared {
    pub(crate) fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answers.
    pub(crate) fn last(&self) -> MutexGuard<'_, HashMap<&'static str, Reply>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key, and how `Wechatpay-Serial` names it.
    pub(crate) fn signer(&self, signer: Signer) -> &(String, RsaKeyPair) {
        let name = SIGNERS.iter().find(|(_, known)| *known == signer).map_or("", |(name, _)| name);
        &self.signers[name]
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            calls: self.calls.load(Ordering::Relaxed),
            in_flight_max: self.in_flight_max.load(Ordering::Relaxed),
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<Shared>) {
    // Connections end with the simulator.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An error makes hyper break the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    state: Arc<Shared>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, std::io::Error> {
    let hung_up = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(|_| hung_up())?.to_bytes().to_vec();
    let asked = Asked { method: parts.method, uri: parts.uri, headers: parts.headers, body };
    let path: Vec<String> = asked
        .uri
        .path()
        .trim_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let reply = match path.as_slice() {
        ["sim", rest @ ..] => Some(control::answer(&state, &asked, rest)),
        ["service", rest @ ..] => counted(&state, service::answer(&state, &asked, rest)).await,
        rest => counted(&state, wechat::answer(&state, &asked, rest)).await,
    };
    let reply = reply.ok_or_else(hung_up)?;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    response.body(body_of(reply)).map_err(|_| hung_up())
}

async fn counted(state: &Shared, answer: impl Future<Output = Option<Reply>>) -> Option<Reply> {
    state.calls.fetch_add(1, Ordering::Relaxed);
    let in_flight = state.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
    state.in_flight_max.fetch_max(in_flight, Ordering::Relaxed);
    let delay = state.knobs().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let reply = answer.await;
    state.in_flight.fetch_sub(1, Ordering::Relaxed);
    reply
}

fn body_of(reply: Reply) -> UnsyncBoxBody<Bytes, Infallible> {
    let Some(pause) = reply.drip else {
        return http_body_util::Full::new(Bytes::from(reply.body)).boxed_unsync();
    };
    let bytes = futures_util::stream::unfold(reply.body.into_iter(), move |mut bytes| async move {
        tokio::time::sleep(pause).await;
        let byte = bytes.next()?;
        Some((Ok(Frame::data(Bytes::from(vec![byte]))), bytes))
    });
    StreamBody::new(bytes).boxed_unsync()
}
