use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Call, Mishap};

/// The trades and refunds of the gateway: what is true, whatever its answers say.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    trades: HashMap<String, TradeEntry>,
    refunds: BTreeMap<String, RefundEntry>,
    payments: u64,
    begun_ms: Option<i128>,
}

/// Where a trade stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting for the customer.
    NotPaid,
    /// Paid.
    Paid,
    /// Closed unpaid.
    Closed,
    /// Paid, and refunded.
    Refunded,
}

/// A trade.
#[derive(Debug, Clone, Serialize)]
pub struct TradeEntry {
    /// Where it stands.
    pub state: State,
    /// What is to be paid.
    pub amount_minor: i64,
    /// In this currency.
    pub currency: String,
    /// The number of the payment.
    pub transaction_id: Option<String>,
    /// When it was paid.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paid_at: Option<OffsetDateTime>,
    /// How often it was queried, closed, refunded, and asked for its refund.
    pub calls: [u32; 4],
    /// What goes wrong with which call.
    pub plan: Vec<(Call, Mishap)>,
}

/// A refund.
#[derive(Debug, Clone, Serialize)]
pub struct RefundEntry {
    /// The trade whose money goes back.
    pub trade_no: String,
    /// How much.
    pub amount_minor: i64,
    /// How it stands, as WeChat Pay calls it.
    pub status: String,
    /// How often it was asked for.
    pub requests: u32,
}

impl Ledger {
    /// Opens a trade that waits for its customer; one that exists stays as it is.
    pub fn open(&self, trade_no: &str, amount_minor: i64, currency: &str) {
        self.books().trades.entry(trade_no.to_owned()).or_insert_with(|| TradeEntry {
            state: State::NotPaid,
            amount_minor,
            currency: currency.to_owned(),
            transaction_id: None,
            paid_at: None,
            calls: [0; 4],
            plan: Vec::new(),
        });
    }

    /// Lets something go wrong with a call about a trade that is open.
    pub fn plan(&self, trade_no: &str, call: Call, mishap: Mishap) {
        if let Some(trade) = self.books().trades.get_mut(trade_no) {
            trade.plan.push((call, mishap));
        }
    }

    /// The customer pays, if the trade still waits for it. Says whether.
    pub fn pay(&self, trade_no: &str) -> bool {
        let mut books = self.books();
        let number = books.payments + 1;
        // Unlike those of an earlier start.
        let begun_ms =
            *books.begun_ms.get_or_insert_with(|| OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
        let Some(trade) = books.trades.get_mut(trade_no).filter(|trade| trade.state == State::NotPaid) else {
            return false;
        };
        trade.state = State::Paid;
        trade.transaction_id = Some(format!("4200{begun_ms:014}{number:010}"));
        trade.paid_at = Some(OffsetDateTime::now_utc());
        books.payments = number;
        true
    }

    /// The customer pays although the trade is closed: no gateway should let them, and some do.
    pub fn pay_closed(&self, trade_no: &str) {
        if let Some(trade) = self.books().trades.get_mut(trade_no) {
            trade.state = State::NotPaid;
        }
        self.pay(trade_no);
    }

    /// A trade as it stands.
    #[must_use]
    pub fn trade(&self, trade_no: &str) -> Option<TradeEntry> {
        self.books().trades.get(trade_no).cloned()
    }

    /// All trades.
    #[must_use]
    pub fn trades(&self) -> BTreeMap<String, TradeEntry> {
        self.books().trades.clone().into_iter().collect()
    }

    /// All refunds by their numbers.
    #[must_use]
    pub fn refunds(&self) -> BTreeMap<String, RefundEntry> {
        self.books().refunds.clone()
    }

    /// Counts a call and tells what goes wrong with it.
    pub(crate) fn called(&self, trade_no: &str, kind: fn(u32) -> Call) -> Vec<Mishap> {
        let mut books = self.books();
        let Some(trade) = books.trades.get_mut(trade_no) else { return Vec::new() };
        let place = match kind(0) {
            Call::Query(_) => 0,
            Call::Close(_) => 1,
            Call::Refund(_) => 2,
            Call::RefundQuery(_) => 3,
        };
        trade.calls[place] += 1;
        let call = kind(trade.calls[place]);
        trade.plan.iter().filter(|(planned, _)| *planned == call).map(|(_, mishap)| mishap.clone()).collect()
    }

    /// Closes a trade that is not paid. Returns its state before; `None`: there is no such trade.
    pub(crate) fn close(&self, trade_no: &str) -> Option<State> {
        let mut books = self.books();
        let trade = books.trades.get_mut(trade_no)?;
        let before = trade.state;
        if before == State::NotPaid {
            trade.state = State::Closed;
        }
        Some(before)
    }

    /// The trade that a refund is for.
    pub(crate) fn trade_of(&self, refund_no: &str) -> Option<String> {
        self.books().refunds.get(refund_no).map(|refund| refund.trade_no.clone())
    }

    /// The trade with this payment.
    pub(crate) fn trade_with(&self, transaction_id: &str) -> Option<String> {
        let books = self.books();
        let mut trades = books.trades.iter();
        trades.find(|(_, trade)| trade.transaction_id.as_deref() == Some(transaction_id)).map(|(no, _)| no.clone())
    }

    /// Refunds a paid trade once; the same number again is the same refund. `Err`: a sentence.
    pub(crate) fn refund(
        &self,
        refund_no: &str,
        trade_no: &str,
        amount_minor: i64,
        status: &str,
    ) -> Result<RefundEntry, String> {
        let mut books = self.books();
        if let Some(refund) = books.refunds.get_mut(refund_no) {
            refund.requests += 1;
            let same = refund.trade_no == trade_no && refund.amount_minor == amount_minor;
            return if same { Ok(refund.clone()) } else { Err("the number belongs to another refund".to_owned()) };
        }
        let trade = books.trades.get_mut(trade_no).ok_or("there is no such trade")?;
        if trade.state != State::Paid || trade.amount_minor != amount_minor {
            return Err(format!("a trade that is {:?} cannot be refunded like this", trade.state));
        }
        trade.state = State::Refunded;
        let refund =
            RefundEntry { trade_no: trade_no.to_owned(), amount_minor, status: status.to_owned(), requests: 1 };
        books.refunds.insert(refund_no.to_owned(), refund.clone());
        Ok(refund)
    }

    /// A refund as it stands; one that was on its way has arrived when it is asked for.
    pub(crate) fn query_refund(&self, refund_no: &str) -> Option<RefundEntry> {
        let mut books = self.books();
        let refund = books.refunds.get_mut(refund_no)?;
        if refund.status == "PROCESSING" {
            refund.status = "SUCCESS".to_owned();
        }
        Some(refund.clone())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
