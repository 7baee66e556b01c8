use std::time::Duration;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use http::HeaderMap;
use order::{CloseOutcome, Money, OrderId, Trade};
use serde::Deserialize;
use time::OffsetDateTime;

/// A payment gateway. Each call may be made again without harm: queries change nothing, a close may be repeated,
/// and a refund is known by its number.
#[async_trait]
pub trait PaymentGateway: Send + Sync {
    /// How old a trade must be before it may be closed.
    fn min_close_age(&self) -> Duration;

    /// Whose trades it tells of, in words that differ where others' would not be found: merchant and application, or the service.
    fn account(&self) -> String {
        String::new()
    }

    /// How long after it was begun a trade may appear that the gateway does not know yet, where that is longer than usual.
    fn payable_for(&self) -> Duration {
        Duration::ZERO
    }

    /// What trade numbers may be like: a regular expression of PostgreSQL's, and the same in words. `None`: anything.
    fn trade_numbers(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Whether a trade could have this number at all; if not, a sentence that says why.
    fn check_trade_no(&self, _trade_no: &str) -> Result<(), String> {
        Ok(())
    }

    /// How a trade stands. A trade that the gateway does not know is a state, not a fault.
    async fn query(&self, trade_no: &str) -> Result<Trade, GatewayFault>;

    /// Tells the gateway to close a trade, so that it cannot be paid any more. The outcome is no proof: ask
    /// again.
    async fn close(&self, trade_no: &str) -> Result<CloseOutcome, GatewayFault>;

    /// Gives money back. The same request again, with the same number, gives nothing more.
    async fn refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault>;

    /// How a refund stands that was asked for by this request.
    async fn query_refund(&self, request: &RefundRequest) -> Result<Refund, GatewayFault>;

    /// What the gateway expects as the answer to a notification that was taken. Anything else has it send it again.
    fn acknowledgement(&self) -> Acknowledgement {
        Acknowledgement { status: 204, body: "" }
    }

    /// Reads a notification that the gateway has sent, and verifies that it has.
    ///
    /// # Errors
    /// [`GatewayFault::Protocol`] if it is forged, stale or garbled: answer with a client error, change nothing.
    async fn parse_notification(&self, headers: &HeaderMap, body: &[u8]) -> Result<Notification, GatewayFault>;
}

/// The answer to a notification that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The status of HTTP.
    pub status: u16,
    /// The body, as plain text.
    pub body: &'static str,
}

/// Money that is to go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundRequest {
    /// The number of the trade that was paid.
    pub trade_no: String,
    /// The gateway's number of the payment.
    pub transaction_id: String,
    /// Makes the refund one refund, however often it is asked for: see [`refund_no`].
    pub refund_no: String,
    /// All that was paid; all of it goes back.
    pub amount: Money,
    /// Why, for the customer's eyes.
    pub reason: String,
}

/// A refund as the gateway has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// Where it stands.
    pub state: RefundState,
    /// When the money arrived.
    pub succeeded_at: Option<OffsetDateTime>,
}

/// Where a refund stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundState {
    /// Accepted and on its way.
    Processing,
    /// The money is back.
    Succeeded,
    /// The gateway gave it up.
    Closed,
    /// It cannot be completed (the customer's account is gone, for example): a person must complete it at the gateway.
    Abnormal,
    /// The gateway knows no such refund.
    NotFound,
    /// A state that this version does not know, as the gateway calls it.
    Unrecognized(String),
}

/// What a gateway tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Something happened to a trade.
    Trade {
        /// Its number.
        trade_no: String,
        /// How it stands.
        trade: Trade,
    },
    /// Something happened to a refund.
    Refund {
        /// Its number.
        refund_no: String,
        /// How it stands.
        refund: Refund,
    },
    /// Genuine, and about something that is no concern of ours.
    Other(String),
}

/// Why a gateway gave no answer that could be used. None of these says anything about the trade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayFault {
    /// No answer, or one that says "not now": the same request again later.
    #[error("no answer: {0}")]
    Transient(String),
    /// Too many requests of this merchant: nothing more for a while.
    #[error("too many requests: {0}")]
    RateLimited(String),
    /// The gateway does not accept who we say we are: keys or certificates are set up wrongly.
    #[error("the gateway does not accept our signature or our rights: {0}")]
    Unauthenticated(String),
    /// The gateway does not accept what we ask: merchant, application or URL are set up wrongly.
    #[error("the gateway is set up wrongly: {0}")]
    Misconfigured(String),
    /// Refused for this trade or refund as it stands.
    #[error("refused: {code}: {detail}")]
    Rejected {
        /// The gateway's own code.
        code: String,
        /// The rest of its words.
        detail: String,
    },
    /// An answer that cannot be trusted or understood: unsigned, wrongly signed, stale, about something else.
    #[error("the answer cannot be used: {0}")]
    Protocol(String),
}

impl GatewayFault {
    /// A short, stable name of the kind, for counters and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::RateLimited(_) => "rate_limited",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Misconfigured(_) => "misconfigured",
            Self::Rejected { .. } => "rejected",
            Self::Protocol(_) => "protocol",
        }
    }
}

/// A gateway's text, cut to a length that fits into logs and headers.
pub(crate) fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    text.chars().take(CHARACTERS_MAX).collect()
}

/// Reads JSON; says where it is wrong, but nothing of what stands in it.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, GatewayFault> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        GatewayFault::Protocol(format!("it is not JSON of the expected form: line {line}, column {column}"))
    })
}

/// What every number of a refund begins with.
const PREFIX: &str = "overdue-";

/// The number of the first refund of an order: the same for every attempt. At most 64
/// characters of `A-Z a-z 0-9 _ - *`, which WeChat Pay allows; two orders never share one.
#[must_use]
pub fn refund_no(order: &OrderId) -> String {
    let plain = order.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain && PREFIX.len() + order.as_str().len() <= 64 {
        return format!("{PREFIX}{order}");
    }
    hashed(order.as_str())
}

/// The number of the refund of this payment, where another payment of the order goes back under the first number.
#[must_use]
pub fn further_refund_no(order: &OrderId, gateway: &str, transaction_id: &str) -> String {
    // No order ID contains a space, so these differ from the first numbers.
    hashed(&format!("{order} {gateway} {transaction_id}"))
}

/// No order ID contains the asterisk, so these differ from those with an ID in them.
fn hashed(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    format!("{PREFIX}*{}", HEXLOWER.encode(&digest.as_ref()[..20]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_refund_number_is_its_orders_and_fits_everywhere() {
        let long = "9".repeat(64);
        let ids = ["842317", "a.b", "a:b", "a_b", "a-b", &long, &"9".repeat(57), &"9".repeat(56)];
        let orders: Vec<OrderId> = ids.iter().map(|id| OrderId::new(id).unwrap()).collect();
        let further = |order, gateway| further_refund_no(order, gateway, "4200");
        let numbers: BTreeSet<String> = (orders.iter())
            .flat_map(|order| [refund_no(order), further(order, "wechat"), further(order, "http")])
            .collect();
        assert_eq!(numbers.len(), 3 * ids.len(), "{numbers:?}");
        for number in &numbers {
            assert!(number.len() <= 64 && number.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-*".contains(&b)));
        }
        assert!(numbers.contains("overdue-842317"));
    }
}
