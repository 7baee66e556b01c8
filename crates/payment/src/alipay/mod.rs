//! Alipay, as a merchant with an application on the open platform, gateway version 1.0 with RSA2
//! (<https://opendocs.alipay.com/open/291/105974>).
//!
//! Answers carry no nonce and no time, so a recorded answer could be played again by whoever can write into the TLS connection;
//! nothing here can tell. What can be checked is: the signature, and that the answer is about the trade that was asked for.

mod codes;
mod form;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::BASE64;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};
use order::{CloseOutcome, Money, Trade, TradeState};
use ring::signature::RsaKeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::Url;

use self::codes::{Refusal, refusal, trade_state};
use self::form::{beijing_text, encoded, instant, minor, pairs, text_to_sign, yuan};
use crate::gateway::parse_json;
use crate::{
    Acknowledgement, BadKey, Environment, GatewayFault, Notification, PaymentGateway, Refund, RefundRequest,
    RefundState, rsa,
};

/// Who we are for Alipay.
#[derive(Clone)]
pub struct AlipaySettings {
    /// Where the gateway is: `https://openapi.alipay.com/gateway.do`, or a simulator.
    pub base_url: Url,
    /// The application that the trades belong to.
    pub app_id: String,
    /// The application's private key: PKCS#8 in PEM form.
    pub private_key_pem: SecretString,
    /// Alipay's public key, in PEM form.
    pub public_key_pem: Vec<u8>,
}

/// A client of Alipay.
pub struct Alipay {
    base_url: Url,
    app_id: String,
    key: RsaKeyPair,
    /// RSAPublicKey of PKCS#1, in DER.
    public_key: Vec<u8>,
    environment: Environment,
}

/// Alipay takes and gives this currency alone, in yuan with two decimals.
const CURRENCY: &str = "CNY";

/// `out_trade_no` in <https://opendocs.alipay.com/open/02ekfp>.
const TRADE_NUMBERS: (&str, &str) =
    ("^[A-Za-z0-9_]{1,64}$", "Alipay's trade numbers have 1 to 64 characters of A-Z a-z 0-9 _");

/// The longest time for which a trade can be paid (`timeout_express`), and what holds where the shop sets none.
const PAYABLE_FOR: Duration = Duration::from_hours(15 * 24);

impl Alipay {
    /// Where the gateway is.
    pub const BASE_URL: &str = "https://openapi.alipay.com/gateway.do";

    /// A client; asks nothing yet.
    ///
    /// # Errors
    /// [`BadKey`] with a sentence, if a key cannot be used.
    pub fn new(settings: &AlipaySettings, environment: Environment) -> Result<Self, BadKey> {
        Ok(Self {
            base_url: settings.base_url.clone(),
            app_id: settings.app_id.clone(),
            key: rsa::private_key(settings.private_key_pem.expose_secret().as_bytes())?,
            public_key: rsa::public_key(&settings.public_key_pem)?,
            environment,
        })
    }

    /// Whether a trade of Alipay can have this number.
    ///
    /// # Errors
    /// Says what numbers may be like.
    pub fn check_trade_no(trade_no: &str) -> Result<(), String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if (1..=64).contains(&trade_no.len()) && trade_no.bytes().all(legal) {
            return Ok(());
        }
        Err(TRADE_NUMBERS.1.to_owned())
    }

    /// One call. A success counts only if it is signed; a refusal may come without a signature, but with none that is wrong.
    async fn call(&self, method: &str, content: &Value) -> Result<Answer, GatewayFault> {
        let content = content.to_string();
        let timestamp = beijing_text(self.environment.clock.now());
        let mut parameters = BTreeMap::from([
            ("app_id", self.app_id.as_str()),
            ("method", method),
            ("format", "JSON"),
            ("charset", "utf-8"),
            ("sign_type", "RSA2"),
            ("timestamp", &timestamp),
            ("version", "1.0"),
            ("biz_content", &content),
        ]);
        let signature = rsa::sign(&self.key, text_to_sign(&parameters).as_bytes())?;
        parameters.remove("biz_content");
        parameters.insert("sign", &signature);
        let mut url = self.base_url.clone();
        url.set_query(Some(&encoded(&parameters)));
        let request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded;charset=utf-8")
            .body(encoded(&BTreeMap::from([("biz_content", content.as_str())])).into_bytes())
            .map_err(|error| GatewayFault::Misconfigured(format!("no request can be made: {error}")))?;
        let response = self.environment.transport.send(request).await?;
        match response.status().as_u16() {
            200 => self.read(method, response.body()),
            429 => Err(GatewayFault::RateLimited("HTTP 429".to_owned())),
            status @ (408 | 500..=599) => Err(GatewayFault::Transient(format!("HTTP {status}"))),
            status => Err(GatewayFault::Protocol(format!("HTTP {status}"))),
        }
    }

    /// What is signed is the text of the answer's node, to the byte.
    fn read(&self, method: &str, body: &[u8]) -> Result<Answer, GatewayFault> {
        let nodes: BTreeMap<String, Box<RawValue>> = parse_json(body)?;
        let name = format!("{}_response", method.replace('.', "_"));
        let node = nodes.get(&name).or_else(|| nodes.get("error_response"));
        let node = node.ok_or_else(|| GatewayFault::Protocol(format!("there is no {name} in it")))?.get();
        let signature = nodes.get("sign").and_then(|sign| serde_json::from_str::<String>(sign.get()).ok());
        let verified = match signature.as_deref() {
            Some(signature) => self.verify(node.as_bytes(), signature),
            None => Err(GatewayFault::Protocol("it is not signed".to_owned())),
        };
        let head: Head = parse_json(node.as_bytes())?;
        if head.code == SUCCESS {
            verified?;
            return Ok(Answer::Success(node.as_bytes().to_vec()));
        }
        if signature.is_some() {
            verified?;
        }
        let (sub_code, detail) = (head.sub_code.unwrap_or_default(), head.sub_msg.or(head.msg).unwrap_or_default());
        Ok(Answer::Refused(refusal(&head.code, &sub_code, &detail)))
    }

    fn verify(&self, message: &[u8], signature: &str) -> Result<(), GatewayFault> {
        let signature = BASE64
            .decode(signature.as_bytes())
            .map_err(|_| GatewayFault::Protocol("its signature is not base64".to_owned()))?;
        rsa::verify(&self.public_key, message, &signature)
    }

    fn refund_content(request: &RefundRequest) -> Value {
        json!({
            "out_trade_no": request.trade_no,
            "trade_no": request.transaction_id,
            "out_request_no": request.refund_no,
        })
    }
}

/// The code of a call that did what it was to do.
const SUCCESS: &str = "10000";

enum Answer {
    /// Signed.
    Success(Vec<u8>),
    Refused(Refusal),
}

#[derive(Deserialize)]
struct Head {
    code: String,
    msg: Option<String>,
    sub_code: Option<String>,
    sub_msg: Option<String>,
}

/// The answer to a query.
#[derive(Deserialize)]
struct TradeBody {
    out_trade_no: String,
    trade_no: Option<String>,
    trade_status: String,
    total_amount: Option<String>,
    send_pay_date: Option<String>,
}

#[derive(Deserialize)]
struct RefundBody {
    fund_change: Option<String>,
}

#[derive(Deserialize)]
struct RefundQueryBody {
    out_request_no: Option<String>,
    refund_status: Option<String>,
}

/// A trade in Alipay's words. One that is closed although it was paid has gone back in full.
fn trade(
    status: &str,
    transaction_id: Option<&str>,
    amount: Option<&str>,
    paid_at: Option<&str>,
    said: &[u8],
) -> Result<Trade, GatewayFault> {
    let paid_at = instant(paid_at)?;
    let amount = amount.map(minor).transpose()?;
    let state = match trade_state(status) {
        TradeState::Closed if paid_at.is_some() => TradeState::Refunded,
        state => state,
    };
    Ok(Trade {
        transaction_id: transaction_id.filter(|id| !id.is_empty()).map(str::to_owned),
        paid_at,
        amount: amount.map(|minor| Money { minor, currency: CURRENCY.to_owned() }),
        said: said.to_vec(),
        ..Trade::in_state(state)
    })
}

#[async_trait]
impl PaymentGateway for Alipay {
    fn min_close_age(&self) -> Duration {
        Duration::ZERO
    }

    fn account(&self) -> String {
        format!("application {}", self.app_id)
    }

    /// The trade exists only once the customer has scanned the code, or has opened the cashier.
    fn payable_for(&self) -> Duration {
        PAYABLE_FOR
    }

    fn trade_numbers(&self) -> Option<(&'static str, &'static str)> {
        Some(TRADE_NUMBERS)
    }

    fn check_trade_no(&self, trade_no: &str) -> Result<(), String> {
        Alipay::check_trade_no(trade_no)
    }

    async fn query(&self, trade_no: &str) -> Result<Trade, GatewayFault> {
        match self.call("alipay.trade.query", &json!({ "out_trade_no": trade_no })).await? {
            Answer::Success(node) => {
                let body: TradeBody = parse_json(&node)?;
                if body.out_trade_no != trade_no {
                    return Err(GatewayFault::Protocol("it is about another trade".to_owned()));
                }
                let (id, amount) = (body.trade_no.as_deref(), body.total_amount.as_deref());
                trade(&body.trade_status, id, amount, body.send_pay_date.as_deref(), &node)
            }
            Answer::Refused(Refusal::NotFound) => Ok(Trade::in_state(TradeState::NotFound)),
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    /// Never `alipay.trade.cancel`, which gives the money of a paid trade back.
    async fn close(&self, trade_no: &str) -> Result<CloseOutcome, GatewayFault> {
        match self.call("alipay.trade.close", &json!({ "out_trade_no": trade_no })).await? {
            Answer::Success(_) => Ok(CloseOutcome::Accepted),
            Answer::Refused(refusal) => refusal.of_close(),
        }
    }

    async fn refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        if request.amount.currency != CURRENCY {
            let (code, detail) = ("currency".to_owned(), format!("Alipay takes {CURRENCY} alone"));
            return Err(GatewayFault::Rejected { code, detail });
        }
        let mut content = Self::refund_content(request);
        content["refund_amount"] = json!(yuan(request.amount.minor));
        content["refund_reason"] = json!(request.reason);
        match self.call("alipay.trade.refund", &content).await? {
            Answer::Success(node) => {
                let body: RefundBody = parse_json(&node)?;
                // `N` says that this call moved nothing: the refund may have been made before, or be on its way.
                let moved = body.fund_change.as_deref() == Some("Y");
                let state = if moved { RefundState::Succeeded } else { RefundState::Processing };
                Ok(Refund { state, succeeded_at: None })
            }
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    async fn query_refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault> {
        match self.call("alipay.trade.fastpay.refund.query", &Self::refund_content(request)).await? {
            Answer::Success(node) => {
                let body: RefundQueryBody = parse_json(&node)?;
                if body.out_request_no.as_ref().is_some_and(|number| *number != request.refund_no) {
                    return Err(GatewayFault::Protocol("it is about another refund".to_owned()));
                }
                let state = match body.refund_status.as_deref() {
                    Some("REFUND_SUCCESS") => RefundState::Succeeded,
                    // It was not received, or it failed: it is asked for again, under the same number.
                    None | Some("") => RefundState::NotFound,
                    Some(other) => RefundState::Unrecognized(crate::gateway::shortened(other)),
                };
                Ok(Refund { state, succeeded_at: None })
            }
            Answer::Refused(Refusal::NotFound) => Ok(Refund { state: RefundState::NotFound, succeeded_at: None }),
            Answer::Refused(refusal) => Err(refusal.into_fault()),
        }
    }

    /// Exactly this body: everything else has Alipay send the notification again.
    fn acknowledgement(&self) -> Acknowledgement {
        Acknowledgement { status: 200, body: "success" }
    }

    async fn parse_notification(&self, _: &HeaderMap, body: &[u8]) -> Result<Notification, GatewayFault> {
        let parameters = pairs(body)?;
        let get = |name: &str| parameters.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let missing = |name: &str| GatewayFault::Protocol(format!("{name} is missing"));
        let signature = get("sign").ok_or_else(|| GatewayFault::Protocol("it is not signed".to_owned()))?;
        let signed: BTreeMap<&str, &str> = (parameters.iter())
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !matches!(*name, "sign" | "sign_type"))
            .collect();
        self.verify(text_to_sign(&signed).as_bytes(), signature)?;
        let Some(status) = get("trade_status") else {
            return Ok(Notification::Other(get("notify_type").unwrap_or("unknown").to_owned()));
        };
        let trade_no = get("out_trade_no").ok_or_else(|| missing("out_trade_no"))?.to_owned();
        let mut trade = trade(status, get("trade_no"), get("total_amount"), get("gmt_payment"), body)?;
        trade.refunded_minor = get("refund_fee").map(minor).transpose()?.unwrap_or(0);
        if trade.state == TradeState::Paid && trade.refunded_minor > 0 {
            trade.state = TradeState::Refunded;
        }
        let app_id = get("app_id").ok_or_else(|| missing("app_id"))?;
        if app_id != self.app_id {
            trade.discrepancy = Some(format!("the trade is application {app_id}'s, not {}'s", self.app_id));
        }
        Ok(Notification::Trade { trade_no, trade })
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn only_numbers_that_alipay_takes_are_asked_about() {
        for good in ["a", "842317", "A_1", &"9".repeat(64)] {
            assert!(Alipay::check_trade_no(good).is_ok(), "{good}");
        }
        for bad in ["", "a-b", "a.b", "a b", "\u{e9}", &"9".repeat(65)] {
            assert!(Alipay::check_trade_no(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_closed_trade_that_was_paid_has_gone_back() {
        let state = |status, paid_at| trade(status, Some("2013"), Some("19.99"), paid_at, b"").unwrap().state;
        assert_eq!(state("TRADE_CLOSED", None), TradeState::Closed);
        assert_eq!(state("TRADE_CLOSED", Some("2014-11-27 15:45:57")), TradeState::Refunded);
        assert_eq!(state("WAIT_BUYER_PAY", None), TradeState::NotPaid);
        let paid_at = |text| trade("TRADE_SUCCESS", None, None, Some(text), b"").map(|trade| trade.paid_at);
        let expected = OffsetDateTime::from_unix_timestamp(1_417_074_357).unwrap();
        assert_eq!(paid_at("2014-11-27 15:45:57").unwrap(), Some(expected), "Beijing's time");
        assert!(paid_at("yesterday").is_err());
    }
}
