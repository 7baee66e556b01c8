//! The bodies of WeChat Pay's answers and notifications.

use http::Response;
use order::{Money, Trade, TradeState};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::codes::{Refusal, refund_state, refusal, trade_state};
use super::keys::Encrypted;
use crate::gateway::{parse_json, shortened};
use crate::{GatewayFault, Refund};

#[derive(Deserialize, Default)]
pub(super) struct ErrorBody {
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Transaction {
    pub(super) mchid: String,
    pub(super) out_trade_no: String,
    trade_state: String,
    appid: Option<String>,
    transaction_id: Option<String>,
    success_time: Option<String>,
    amount: Option<Amount>,
}

#[derive(Deserialize)]
struct Amount {
    total: i64,
    #[serde(default = "cny")]
    currency: String,
}

/// The answer to a refund, and to a query of one.
#[derive(Deserialize)]
pub(super) struct RefundBody {
    out_refund_no: String,
    status: String,
    success_time: Option<String>,
}

/// What a notification about a refund decrypts to.
#[derive(Deserialize)]
pub(super) struct RefundNotice {
    pub(super) out_refund_no: String,
    refund_status: String,
    success_time: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct NotificationBody {
    pub(super) event_type: String,
    pub(super) resource: Encrypted,
}

impl ErrorBody {
    /// What an error says. An error of another form than WeChat Pay's says nothing.
    pub(super) fn refusal(response: &Response<Vec<u8>>) -> Refusal {
        let Self { code, message } = serde_json::from_slice(response.body()).unwrap_or_default();
        let (code, message) = (code.as_deref().map(shortened), message.unwrap_or_default());
        refusal(response.status().as_u16(), code.as_deref(), &shortened(&message))
    }
}

impl Transaction {
    /// The trade, as one of this merchant and application, and as it was said.
    pub(super) fn into_trade(self, mchid: &str, appid: &str, said: &[u8]) -> Result<Trade, GatewayFault> {
        let state = trade_state(&self.trade_state);
        let discrepancy = if self.mchid != mchid {
            Some(format!("the trade is merchant {}'s, not {mchid}'s", self.mchid))
        } else {
            let foreign = self.appid.as_ref().filter(|other| state == TradeState::Paid && *other != appid);
            foreign.map(|other| format!("the trade is application {other}'s, not {appid}'s"))
        };
        Ok(Trade {
            state,
            transaction_id: self.transaction_id.filter(|id| !id.is_empty()),
            paid_at: instant(self.success_time.as_deref())?,
            amount: self.amount.map(|amount| Money { minor: amount.total, currency: amount.currency }),
            combined: false,
            // A refund of any part makes the state `REFUND`.
            refunded_minor: 0,
            discrepancy,
            said: said.to_vec(),
        })
    }
}

impl RefundBody {
    /// The refund of this number.
    pub(super) fn read(body: &[u8], refund_no: &str) -> Result<Refund, GatewayFault> {
        let body: Self = parse_json(body)?;
        if body.out_refund_no != refund_no {
            return Err(GatewayFault::Protocol("it is about another refund".to_owned()));
        }
        Ok(Refund { state: refund_state(&body.status), succeeded_at: instant(body.success_time.as_deref())? })
    }
}

impl RefundNotice {
    pub(super) fn refund(&self) -> Result<Refund, GatewayFault> {
        let succeeded_at = instant(self.success_time.as_deref())?;
        Ok(Refund { state: refund_state(&self.refund_status), succeeded_at })
    }
}

fn cny() -> String {
    "CNY".to_owned()
}

/// A time that may be missing, or empty where nothing has happened yet.
fn instant(text: Option<&str>) -> Result<Option<OffsetDateTime>, GatewayFault> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let instant = OffsetDateTime::parse(text, &Rfc3339);
    instant.map(Some).map_err(|_| GatewayFault::Protocol("a time in it is not RFC 3339".to_owned()))
}
