//! WeChat Pay, API v3, as a merchant without sub-merchants
//! (<https://pay.weixin.qq.com/doc/v3/merchant/4013070356>).

mod bodies;
mod codes;
mod keys;
mod signature;

use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use order::{CloseOutcome, Money, Trade, TradeState};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::signature::RsaKeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use url::Url;

use self::bodies::{ErrorBody, NotificationBody, RefundBody, RefundNotice, Transaction};
use self::codes::Refusal;
use self::keys::{Certificates, KeyRing};
use self::signature::Signed;
use crate::gateway::parse_json as parse;
use crate::replay::{ReplayGuard, is_fresh};
use crate::{BadKey, Environment, GatewayFault, Notification, PaymentGateway, Refund, RefundRequest, RefundState, rsa};

pub use self::keys::VerificationKey;

/// Who we are for WeChat Pay.
#[derive(Clone)]
pub struct WeChatSettings {
    /// Where the API is: `https://api.mch.weixin.qq.com`, or a simulator.
    pub base_url: Url,
    /// The merchant's number.
    pub mchid: String,
    /// The application that the trades belong to.
    pub appid: String,
    /// The serial number of the merchant's certificate.
    pub serial_no: String,
    /// The merchant's private key: PKCS#8 in PEM form.
    pub private_key_pem: SecretString,
    /// 32 bytes, with which notifications and certificates are encrypted.
    pub api_v3_key: SecretString,
    /// The keys with which WeChat Pay signs. Where certificates are used, new ones are fetched as they appear.
    pub keys: Vec<VerificationKey>,
    /// How old a trade must be before it is closed. WeChat Pay recommends five minutes.
    pub min_close_age: Duration,
}

/// A client of WeChat Pay.
pub struct WeChatPay {
    base_url: Url,
    mchid: String,
    appid: String,
    serial_no: String,
    key: RsaKeyPair,
    api_v3_key: [u8; 32],
    keys: KeyRing,
    /// The public key that we ask the gateway to sign with, where there is one.
    public_key_id: Option<String>,
    min_close_age: Duration,
    environment: Environment,
    replays: ReplayGuard,
    /// When the certificates were last asked for.
    certificates_asked_at: Mutex<Option<OffsetDateTime>>,
}

/// New certificates are asked for no more often than this: forged serial numbers must not make us ask for each.
const CERTIFICATES_ASKED_EVERY: Duration = Duration::from_secs(10);

/// What may stand unescaped in the path: everything that a trade or refund number may have but `|` and `@`.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'*');

impl WeChatPay {
    /// Where the API is.
    pub const BASE_URL: &str = "https://api.mch.weixin.qq.com";

    /// How old a trade should be before it is closed: WeChat Pay recommends five minutes.
    pub const MIN_CLOSE_AGE: Duration = Duration::from_mins(5);

    /// A client; asks nothing yet.
    ///
    /// # Errors
    /// [`BadKey`] with a sentence, if a key cannot be used.
    pub fn new(settings: WeChatSettings, environment: Environment) -> Result<Self, BadKey> {
        let key = rsa::private_key(settings.private_key_pem.expose_secret().as_bytes())?;
        let api_v3_key = settings
            .api_v3_key
            .expose_secret()
            .trim()
            .as_bytes()
            .try_into()
            .map_err(|_| BadKey("the APIv3 key has not 32 bytes".to_owned()))?;
        let public_key_id =
            settings.keys.iter().map(|key| &key.serial).find(|serial| serial.starts_with("PUB_KEY_ID_")).cloned();
        Ok(Self {
            base_url: settings.base_url,
            mchid: settings.mchid,
            appid: settings.appid,
            serial_no: settings.serial_no,
            key,
            api_v3_key,
            keys: KeyRing::new(settings.keys),
            public_key_id,
            min_close_age: settings.min_close_age,
            environment,
            replays: ReplayGuard::default(),
            certificates_asked_at: Mutex::new(None),
        })
    }

    async fn get(&self, path_and_query: &str) -> Result<Answer, GatewayFault> {
        self.call(Method::GET, path_and_query, Vec::new()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, GatewayFault> {
        self.call(Method::POST, path, body.to_string().into_bytes()).await
    }

    /// One call. A success counts only if it is signed.
    async fn call(&self, method: Method, path_and_query: &str, body: Vec<u8>) -> Result<Answer, GatewayFault> {
        let response = self.send(method, path_and_query, body).await?;
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            self.verify(response.headers(), response.body(), Replays::Refused).await?;
            return Ok(Answer::Success(response.into_body()));
        }
        // Errors are not signed: nothing irreversible follows from one alone.
        Ok(Answer::Refused(ErrorBody::refusal(&response)))
    }

    async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        body: Vec<u8>,
    ) -> Result<Response<Vec<u8>>, GatewayFault> {
        let timestamp = self.environment.clock.now().unix_timestamp();
        let nonce = self.environment.nonce.next();
        let message = signature::request_message(method.as_str(), path_and_query, timestamp, &nonce, &body);
        let signature = rsa::sign(&self.key, &message)?;
        let (mchid, serial_no) = (&self.mchid, &self.serial_no);
        let authorization = format!(
            "WECHATPAY2-SHA256-RSA2048 mchid=\"{mchid}\",nonce_str=\"{nonce}\",timestamp=\"{timestamp}\",serial_no=\"{serial_no}\",signature=\"{signature}\""
        );
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path_and_query}", self.base_url.as_str().trim_end_matches('/')))
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(id) = &self.public_key_id {
            request = request.header("Wechatpay-Serial", id);
        }
        let request = request
            .body(body)
            .map_err(|error| GatewayFault::Misconfigured(format!("no request can be made: {error}")))?;
        Ok(self.environment.transport.send(request).await?)
    }

    /// Verifies that this was signed by the gateway, lately and, for answers, for the first time.
    async fn verify(&self, headers: &HeaderMap, body: &[u8], replays: Replays) -> Result<(), GatewayFault> {
        let signed = Signed::read(headers)?;
        let now = self.environment.clock.now();
        if !is_fresh(signed.timestamp, now) {
            return Err(GatewayFault::Protocol(format!(
                "it was signed at {} and now is {}: it is stale, or a clock is wrong",
                signed.timestamp,
                now.unix_timestamp()
            )));
        }
        let key = match self.keys.find(signed.serial, now) {
            Some(key) => key,
            None => {
                self.fetch_certificates(signed.serial).await?;
                let unknown = || GatewayFault::Protocol(format!("its key {:?} is not known", signed.serial));
                self.keys.find(signed.serial, now).ok_or_else(unknown)?
            }
        };
        signed.verify(&key, body)?;
        // Only what is genuine is remembered, or forgeries would fill the memory.
        if replays == Replays::Refused && !self.replays.is_new(signed.nonce, now) {
            return Err(GatewayFault::Protocol("it is an answer that was given before".to_owned()));
        }
        Ok(())
    }

    /// Fetches the platform's certificates, unless `serial` names none, or another caller has just done it.
    async fn fetch_certificates(&self, serial: &str) -> Result<(), GatewayFault> {
        if !serial.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        let mut asked_at = self.certificates_asked_at.lock().await;
        let now = self.environment.clock.now();
        if asked_at.is_some_and(|at| now - at < CERTIFICATES_ASKED_EVERY) {
            return Ok(());
        }
        *asked_at = Some(now);
        let response = self.send(Method::GET, "/v3/certificates", Vec::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(ErrorBody::refusal(&response).into_fault());
        }
        let fetched: Certificates = parse(response.body())?;
        let fetched = fetched.open(&self.api_v3_key)?;
        // The list is signed by one of the keys that are in it.
        let signed = Signed::read(response.headers())?;
        let candidates = KeyRing::new(fetched.clone());
        let signer = candidates.find(signed.serial, now).or_else(|| self.keys.find(signed.serial, now));
        let signer = signer
            .ok_or_else(|| GatewayFault::Protocol("the certificates are not signed by one of them".to_owned()))?;
        signed.verify(&signer, response.body())?;
        let serials: Vec<&str> = fetched.iter().map(|key| key.serial.as_str()).collect();
        tracing::info!(?serials, "the payment gateway has new certificates");
        self.keys.add(fetched);
        Ok(())
    }
}

/// Whether what was seen before counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replays {
    Refused,
    /// Notifications are sent again until they are taken; they change nothing the second time.
    Harmless,
}

enum Answer {
    /// Signed.
    Success(Vec<u8>),
    Refused(Refusal),
}

impl WeChatPay {
    /// Whether a trade of WeChat Pay can have this number
    /// (`out_trade_no` in <https://pay.weixin.qq.com/doc/v3/merchant/4012791858>).
    ///
    /// # Errors
    /// Says what numbers may be like.
    pub fn check_trade_no(trade_no: &str) -> Result<(), String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-|*".contains(&byte);
        if (6..=32).contains(&trade_no.len()) && trade_no.bytes().all(legal) {
            return Ok(());
        }
        Err(TRADE_NUMBERS.1.to_owned())
    }
}

/// As [`WeChatPay::check_trade_no`] has it.
const TRADE_NUMBERS: (&str, &str) =
    ("^[A-Za-z0-9_|*-]{6,32}$", "WeChat Pay's trade numbers have 6 to 32 characters of A-Z a-z 0-9 _ - | *");

#[async_trait]
impl PaymentGateway for WeChatPay {
    fn min_close_age(&self) -> Duration {
        self.min_close_age
    }

    fn account(&self) -> String {
        format!("merchant {}, application {}", self.mchid, self.appid)
    }

    fn trade_numbers(&self) -> Option<(&'static str, &'static str)> {
        Some(TRADE_NUMBERS)
    }

    fn check_trade_no(&self, trade_no: &str) -> Result<(), String> {
        WeChatPay::check_trade_no(trade_no)
    }

    async fn query(&self, trade_no: &str) -> Result<Trade, GatewayFault> {
        let path = format!("/v3/pay/transactions/out-trade-no/{}?mchid={}", escape(trade_no), escape(&self.mchid));
        match self.get(&path).await? {
            Answer::Success(body) => {
                let transaction: Transaction = parse(&body)?;
                if transaction.out_trade_no != trade_no {
                    return Err(GatewayFault::Protocol("it is about another trade".to_owned()));
                }
                transaction.into_trade(&self.mchid, &self.appid, &body)
            }
            Answer::Refused(Refusal::NotFound) => Ok(Trade::in_state(TradeState::NotFound)),
            Answer::Refused(Refusal::UserPaying) => Ok(Trade::in_state(TradeState::UserPaying)),
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    async fn close(&self, trade_no: &str) -> Result<CloseOutcome, GatewayFault> {
        let path = format!("/v3/pay/transactions/out-trade-no/{}/close", escape(trade_no));
        match self.post(&path, &json!({ "mchid": self.mchid })).await? {
            Answer::Success(_) => Ok(CloseOutcome::Accepted),
            Answer::Refused(refusal) => refusal.of_close(),
        }
    }

    async fn refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        let Money { minor, currency } = &request.amount;
        let body = json!({
            "transaction_id": request.transaction_id,
            "out_refund_no": request.refund_no,
            "reason": request.reason,
            "amount": { "refund": minor, "total": minor, "currency": currency },
        });
        match self.post("/v3/refund/domestic/refunds", &body).await? {
            Answer::Success(body) => RefundBody::read(&body, &request.refund_no),
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    async fn query_refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        let refund_no = &request.refund_no;
        match self.get(&format!("/v3/refund/domestic/refunds/{}", escape(refund_no))).await? {
            Answer::Success(body) => RefundBody::read(&body, refund_no),
            Answer::Refused(Refusal::NoSuchResource) => Ok(Refund { state: RefundState::NotFound, succeeded_at: None }),
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    async fn parse_notification(&self, headers: &HeaderMap, body: &[u8]) -> Result<Notification, GatewayFault> {
        self.verify(headers, body, Replays::Harmless).await?;
        let notification: NotificationBody = parse(body)?;
        let resource = notification.resource.open(&self.api_v3_key)?;
        match notification.event_type.split_once('.').map(|(about, _)| about) {
            Some("TRANSACTION") => {
                let transaction: Transaction = parse(&resource)?;
                let trade_no = transaction.out_trade_no.clone();
                let trade = transaction.into_trade(&self.mchid, &self.appid, &resource)?;
                Ok(Notification::Trade { trade_no, trade })
            }
            Some("REFUND") => {
                let notice: RefundNotice = parse(&resource)?;
                let refund = notice.refund()?;
                Ok(Notification::Refund { refund_no: notice.out_refund_no, refund })
            }
            _ => Ok(Notification::Other(notification.event_type)),
        }
    }
}

fn escape(part: &str) -> String {
    utf8_percent_encode(part, &PATH).to_string()
}
