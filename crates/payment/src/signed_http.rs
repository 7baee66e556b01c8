//! A small contract over HTTP that an existing payment service can implement: four calls in JSON, each signed with
//! HMAC-SHA256 in both directions. `docs/payment-service.openapi.json` writes it down.

use std::time::Duration;

use async_trait::async_trait;
use data_encoding::BASE64;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use order::{CloseOutcome, Money, Trade, TradeState};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use url::Url;

use crate::gateway::{parse_json as parse, shortened};
use crate::replay::{ReplayGuard, is_fresh};
use crate::{Environment, GatewayFault, Notification, PaymentGateway, Refund, RefundRequest, RefundState};

/// Where the payment service is, and the secret that we share with it.
#[derive(Clone)]
pub struct SignedHttpSettings {
    /// The paths of the contract are appended to it.
    pub base_url: Url,
    /// Names the secret, so that it can be changed without a gap.
    pub key_id: String,
    /// At least 32 bytes.
    pub secret: SecretString,
    /// The secret that was in use before: what is signed with it is believed still.
    pub old_secret: Option<SecretString>,
    /// How old a trade must be before it is closed.
    pub min_close_age: Duration,
}

/// A client of a payment service that implements the contract.
pub struct SignedHttp {
    base_url: Url,
    key_id: String,
    key: hmac::Key,
    old_key: Option<hmac::Key>,
    min_close_age: Duration,
    environment: Environment,
    replays: ReplayGuard,
}

/// What both sides sign: `first` is `POST /trades/1/close` for a request; `200` and, after a space, the request's
/// nonce for its answer; and `NOTIFICATION` for a notification. In base64.
#[must_use]
pub fn hmac_signature(secret: &[u8], first: &str, timestamp: &str, nonce: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    BASE64.encode(hmac::sign(&key, &message(first, timestamp, nonce, body)).as_ref())
}

fn key(secret: &SecretString) -> Result<hmac::Key, String> {
    let secret = secret.expose_secret().trim().as_bytes();
    if secret.len() < 32 {
        return Err("the secret of the payment service must have 32 bytes or more".to_owned());
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

fn message(first: &str, timestamp: &str, nonce: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("{first}\n{timestamp}\n{nonce}\n").into_bytes();
    message.extend_from_slice(body);
    message.push(b'\n');
    message
}

impl SignedHttp {
    /// A client; asks nothing yet.
    ///
    /// # Errors
    /// A sentence, if the secret is too short.
    pub fn new(settings: &SignedHttpSettings, environment: Environment) -> Result<Self, String> {
        Ok(Self {
            base_url: settings.base_url.clone(),
            key_id: settings.key_id.clone(),
            key: key(&settings.secret)?,
            old_key: settings.old_secret.as_ref().map(key).transpose()?,
            min_close_age: settings.min_close_age,
            environment,
            replays: ReplayGuard::default(),
        })
    }

    /// One call. Every answer of the contract is signed, refusals too; one that is not is a proxy's or a forger's.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Result<(StatusCode, Vec<u8>), GatewayFault> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let timestamp = self.environment.clock.now().unix_timestamp().to_string();
        let nonce = self.environment.nonce.next();
        let url = format!("{}{path}", self.base_url.as_str().trim_end_matches('/'));
        let misconfigured = |what: String| GatewayFault::Misconfigured(format!("no request can be made: {what}"));
        // What is signed is the path that the service sees.
        let seen: Url = url.parse().map_err(|error: url::ParseError| misconfigured(error.to_string()))?;
        let first = format!("{method} {}", seen.path());
        let signature = BASE64.encode(hmac::sign(&self.key, &message(&first, &timestamp, &nonce, &body)).as_ref());
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("Overdue-Key-Id", &self.key_id)
            .header("Overdue-Timestamp", timestamp)
            .header("Overdue-Nonce", &nonce)
            .header("Overdue-Signature", signature);
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let request = request.body(body).map_err(|error| misconfigured(error.to_string()))?;
        let response = self.environment.transport.send(request).await?;
        let status = response.status();
        let verified = self.verify(response.headers(), &format!("{} {nonce}", status.as_str()), response.body(), true);
        match status.as_u16() {
            // Hints that nothing irreversible follows from: they need no signature.
            429 => return Err(GatewayFault::RateLimited("HTTP 429".to_owned())),
            status @ (408 | 500..=599) => return Err(GatewayFault::Transient(format!("HTTP {status}"))),
            status @ (401 | 403) => return Err(GatewayFault::Unauthenticated(format!("HTTP {status}"))),
            status @ (400 | 405 | 422) => return Err(GatewayFault::Misconfigured(format!("HTTP {status}"))),
            _ => {}
        }
        verified?;
        Ok((status, response.into_body()))
    }

    fn verify(&self, headers: &HeaderMap, first: &str, body: &[u8], once: bool) -> Result<(), GatewayFault> {
        let protocol = |what: &str| GatewayFault::Protocol(what.to_owned());
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| protocol(&format!("it is not signed: {name} is missing")))
        };
        let (timestamp, nonce) = (header("overdue-timestamp")?, header("overdue-nonce")?);
        let signature = BASE64
            .decode(header("overdue-signature")?.as_bytes())
            .map_err(|_| protocol("its signature is not base64"))?;
        let now = self.environment.clock.now();
        if !is_fresh(timestamp, now) {
            return Err(protocol("it is stale, or a clock is wrong"));
        }
        // Compares in constant time.
        let message = message(first, timestamp, nonce, body);
        let is_signed_with = |key: &hmac::Key| hmac::verify(key, &message, &signature).is_ok();
        if !is_signed_with(&self.key) && !self.old_key.as_ref().is_some_and(is_signed_with) {
            return Err(protocol("its signature is wrong"));
        }
        if once && !self.replays.is_new(nonce, now) {
            return Err(protocol("it is an answer that was given before"));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct TradeBody {
    trade_no: String,
    state: String,
    transaction_id: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    paid_at: Option<OffsetDateTime>,
    amount_minor: Option<i64>,
    currency: Option<String>,
    #[serde(default)]
    combined: bool,
    /// What of it went back.
    refunded_minor: Option<i64>,
}

#[derive(Deserialize)]
struct CloseBody {
    outcome: String,
}

#[derive(Deserialize)]
struct RefundBody {
    refund_no: String,
    state: String,
    #[serde(default, with = "time::serde::rfc3339::option")]
    succeeded_at: Option<OffsetDateTime>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
enum NotificationBody {
    Trade(TradeBody),
    Refund(RefundBody),
}

impl TradeBody {
    fn trade(self, said: &[u8]) -> Trade {
        let amount = self.amount_minor.zip(self.currency);
        Trade {
            transaction_id: self.transaction_id.filter(|id| !id.is_empty()),
            paid_at: self.paid_at,
            amount: amount.map(|(minor, currency)| Money { minor, currency }),
            combined: self.combined,
            refunded_minor: self.refunded_minor.unwrap_or(0),
            said: said.to_vec(),
            ..Trade::in_state(trade_state(&self.state))
        }
    }
}

fn trade_state(name: &str) -> TradeState {
    match name {
        "not_paid" => TradeState::NotPaid,
        "user_paying" => TradeState::UserPaying,
        "paid" => TradeState::Paid,
        "closed" => TradeState::Closed,
        "refunded" => TradeState::Refunded,
        "failed" => TradeState::Failed,
        "revoked" => TradeState::Revoked,
        "authorized" => TradeState::Authorized,
        other => TradeState::Unrecognized(shortened(other)),
    }
}

fn refund(body: RefundBody) -> Refund {
    let state = match body.state.as_str() {
        "processing" => RefundState::Processing,
        "succeeded" => RefundState::Succeeded,
        "closed" => RefundState::Closed,
        "abnormal" => RefundState::Abnormal,
        other => RefundState::Unrecognized(shortened(other)),
    };
    Refund { state, succeeded_at: body.succeeded_at }
}

#[async_trait]
impl PaymentGateway for SignedHttp {
    fn min_close_age(&self) -> Duration {
        self.min_close_age
    }

    /// The service. On this machine its port may differ from one start to the next.
    fn account(&self) -> String {
        let mut url = self.base_url.clone();
        let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if here {
            let _ = url.set_port(None);
        }
        url.as_str().trim_end_matches('/').to_owned()
    }

    async fn query(&self, trade_no: &str) -> Result<Trade, GatewayFault> {
        let (status, body) = self.call(Method::GET, &format!("/trades/{}", escape(trade_no)), None, None).await?;
        match status {
            StatusCode::OK => {
                let trade: TradeBody = parse(&body)?;
                if trade.trade_no != trade_no {
                    return Err(GatewayFault::Protocol("it is about another trade".to_owned()));
                }
                Ok(trade.trade(&body))
            }
            _ if says(&body, "trade_not_found") => Ok(Trade::in_state(TradeState::NotFound)),
            status => Err(unexpected(status, &body)),
        }
    }

    async fn close(&self, trade_no: &str) -> Result<CloseOutcome, GatewayFault> {
        let path = format!("/trades/{}/close", escape(trade_no));
        // A key for each attempt: that it was too early, or in progress, must not be answered for ever.
        let key = format!("close-{trade_no}-{}", self.environment.nonce.next());
        let (status, body) = self.call(Method::POST, &path, Some(&json!({})), Some(&key)).await?;
        match status {
            StatusCode::OK => match parse::<CloseBody>(&body)?.outcome.as_str() {
                "accepted" => Ok(CloseOutcome::Accepted),
                "already_closed" => Ok(CloseOutcome::AlreadyClosed),
                "already_paid" => Ok(CloseOutcome::AlreadyPaid),
                "in_progress" => Ok(CloseOutcome::InProgress),
                "too_early" => Ok(CloseOutcome::TooEarly),
                "unsupported" => Ok(CloseOutcome::Unsupported),
                _ => Err(GatewayFault::Protocol("the outcome of the close is not known".to_owned())),
            },
            _ if says(&body, "trade_not_found") => Ok(CloseOutcome::NotFound),
            // The same close is being made at this moment.
            StatusCode::CONFLICT => Ok(CloseOutcome::InProgress),
            status => Err(unexpected(status, &body)),
        }
    }

    async fn refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        let wanted = json!({
            "refund_no": request.refund_no,
            "trade_no": request.trade_no,
            "transaction_id": request.transaction_id,
            "amount_minor": request.amount.minor,
            "currency": request.amount.currency,
            "reason": request.reason,
        });
        let (status, body) = self.call(Method::POST, "/refunds", Some(&wanted), Some(&request.refund_no)).await?;
        match status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => about(parse(&body)?, &request.refund_no),
            StatusCode::CONFLICT if !says(&body, "refund_refused") => {
                Err(GatewayFault::Transient("the same refund is being made".to_owned()))
            }
            status => Err(unexpected(status, &body)),
        }
    }

    async fn query_refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        let refund_no = &request.refund_no;
        let (status, body) = self.call(Method::GET, &format!("/refunds/{}", escape(refund_no)), None, None).await?;
        match status {
            StatusCode::OK => about(parse(&body)?, refund_no),
            _ if says(&body, "refund_not_found") => Ok(Refund { state: RefundState::NotFound, succeeded_at: None }),
            status => Err(unexpected(status, &body)),
        }
    }

    async fn parse_notification(&self, headers: &HeaderMap, body: &[u8]) -> Result<Notification, GatewayFault> {
        self.verify(headers, "NOTIFICATION", body, false)?;
        Ok(match parse(body)? {
            NotificationBody::Trade(trade) => {
                let trade_no = trade.trade_no.clone();
                Notification::Trade { trade_no, trade: trade.trade(body) }
            }
            NotificationBody::Refund(body) => {
                Notification::Refund { refund_no: body.refund_no.clone(), refund: refund(body) }
            }
        })
    }
}

fn about(body: RefundBody, refund_no: &str) -> Result<Refund, GatewayFault> {
    if body.refund_no != refund_no {
        return Err(GatewayFault::Protocol("it is about another refund".to_owned()));
    }
    Ok(refund(body))
}

fn says(body: &[u8], wanted: &str) -> bool {
    code(body).is_some_and(|error| error.code == wanted)
}

fn code(body: &[u8]) -> Option<ErrorBody> {
    serde_json::from_slice(body).ok()
}

fn unexpected(status: StatusCode, body: &[u8]) -> GatewayFault {
    if status == StatusCode::NOT_FOUND {
        return GatewayFault::Misconfigured(
            "HTTP 404 that is not about a trade or a refund: the URL may be wrong".to_owned(),
        );
    }
    match code(body) {
        Some(error) => GatewayFault::Rejected {
            code: shortened(&error.code),
            detail: shortened(&error.message.unwrap_or_default()),
        },
        None => GatewayFault::Protocol(format!("HTTP {status} without a code")),
    }
}

fn escape(part: &str) -> String {
    /// What RFC 3986 calls unreserved stays as it is.
    const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(part, &PATH).to_string()
}
