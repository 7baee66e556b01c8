use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::message::{Reply, SimRequest};
use crate::shared::{Shared, Statistics};
use crate::{Keys, Ledger, Mishap, Signer, alipay, control, service, wechat};

/// The gateway, serving on 127.0.0.1 until it is dropped.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The most bytes of a request.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

impl Simulator {
    /// Serves on this port of 127.0.0.1 (0: any that is free).
    ///
    /// # Errors
    /// If the port is taken or the keys cannot be used.
    pub async fn start(port: u16, keys: Keys) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::new(keys)?);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
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

    /// Where Alipay's gateway is.
    #[must_use]
    pub fn alipay_url(&self) -> String {
        format!("http://{}/alipay/gateway.do", self.address)
    }

    /// What is true.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// Signs with this key from now on.
    pub fn sign_with(&self, signer: Signer) {
        self.shared.knobs().signer = signer;
    }

    /// Each call takes this much longer from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.knobs().delay = delay;
    }

    /// From now on this goes wrong with every call; `None`: nothing.
    pub fn outage(&self, mishap: Option<Mishap>) {
        self.shared.knobs().outage = mishap;
    }

    /// How it was called so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// A notification of WeChat Pay about a trade as it stands: headers and body.
    #[must_use]
    pub fn notification(&self, trade_no: &str) -> (HeaderMap, Vec<u8>) {
        wechat::notification(&self.shared, trade_no)
    }

    /// A notification of Alipay about a trade as it stands: headers and body.
    #[must_use]
    pub fn alipay_notification(&self, trade_no: &str) -> (HeaderMap, Vec<u8>) {
        alipay::notification(&self.shared, trade_no)
    }

    /// A notification of WeChat Pay about a refund as it stands: headers and body.
    #[must_use]
    pub fn refund_notification(&self, refund_no: &str) -> (HeaderMap, Vec<u8>) {
        wechat::refund_notification(&self.shared, refund_no)
    }

    /// A notification of the signed HTTP contract about a trade as it stands: headers and body.
    #[must_use]
    pub fn service_notification(&self, trade_no: &str) -> (HeaderMap, Vec<u8>) {
        service::notification(&self.shared, trade_no)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
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
    let request = SimRequest { method: parts.method, uri: parts.uri, headers: parts.headers, body };
    let path: Vec<String> = request
        .uri
        .path()
        .trim_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let reply = match path.as_slice() {
        ["sim", rest @ ..] => Some(control::answer(&state, &request, rest)),
        ["hooks"] => Some(state.hooks.answer(&request)),
        ["alipay", "gateway.do"] => state.counted(alipay::answer(&state, &request)).await,
        ["service", rest @ ..] => state.counted(service::answer(&state, &request, rest)).await,
        rest => state.counted(wechat::answer(&state, &request, rest)).await,
    };
    let reply = reply.ok_or_else(hung_up)?;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    response.body(body_of(reply)).map_err(|_| hung_up())
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
