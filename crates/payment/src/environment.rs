//! What a gateway client needs from the world, so that tests can give it another: a way to send requests, a
//! clock, and numbers used once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use http::{Request, Response};
use reqwest::Client;
use reqwest::redirect::Policy;
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;

use crate::GatewayFault;

/// Transport, clock and nonces together.
#[derive(Clone)]
pub struct Environment {
    /// Sends requests.
    pub transport: Arc<dyn Transport>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes numbers used once.
    pub nonce: Arc<dyn Nonce>,
}

impl Environment {
    /// The real one.
    ///
    /// # Errors
    /// A sentence, if the system gives no TLS.
    pub fn system(call_timeout: Duration) -> Result<Self, String> {
        let transport = Arc::new(HttpTransport::new(call_timeout)?);
        Ok(Self { transport, clock: Arc::new(SystemClock), nonce: Arc::new(RandomNonce(SystemRandom::new())) })
    }
}

/// Sends a request and returns the whole answer.
#[async_trait]
pub trait Transport: Send + Sync {
    /// One request, one answer; bounded in time and size.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, TransportFault>;
}

/// No answer arrived. Whether the request did is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TransportFault(pub String);

impl From<TransportFault> for GatewayFault {
    fn from(fault: TransportFault) -> Self {
        Self::Transient(fault.0)
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> OffsetDateTime;
}

/// Makes numbers used once.
pub trait Nonce: Send + Sync {
    /// The next: 32 hexadecimal digits.
    fn next(&self) -> String;
}

/// This machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// Random nonces.
#[derive(Debug, Clone)]
pub struct RandomNonce(SystemRandom);

impl Nonce for RandomNonce {
    fn next(&self) -> String {
        let mut bytes = [0; 16];
        // The operating system's generator does not fail once it has worked; a request with a bad nonce would be
        // refused, and nothing worse.
        let _ = self.0.fill(&mut bytes);
        HEXLOWER.encode(&bytes)
    }
}

/// HTTP over TCP and TLS.
pub struct HttpTransport {
    client: Client,
}

/// The most bytes of an answer that are read: the longest of a gateway, a list of certificates, has some 20 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

impl HttpTransport {
    /// A client that keeps connections, follows no redirect, and gives each call this long.
    ///
    /// # Errors
    /// A sentence, if the system gives no TLS.
    pub fn new(call_timeout: Duration) -> Result<Self, String> {
        let client = Client::builder()
            .timeout(call_timeout)
            .connect_timeout(call_timeout)
            .redirect(Policy::none())
            .user_agent(concat!("overdue/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(256)
            .build()
            .map_err(|error| format!("there is no HTTP client to be had: {error}"))?;
        Ok(Self { client })
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, TransportFault> {
        let request = reqwest::Request::try_from(request).map_err(fault)?;
        let mut response = self.client.execute(request).await.map_err(fault)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(fault)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(TransportFault(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = Response::new(body);
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }
}

/// The cause, without the URL: it contains order numbers, and the sentence goes to the log.
fn fault(error: reqwest::Error) -> TransportFault {
    TransportFault(trace::causes(&error.without_url()))
}
