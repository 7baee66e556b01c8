use std::fmt;

use time::OffsetDateTime;

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Money {
    /// In the smallest unit of the currency: cents, fen.
    pub minor: i64,
    /// Three capital letters (ISO 4217).
    pub currency: String,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (smallest units)", self.minor, self.currency)
    }
}

/// Whether a text has the form of a currency's code: three capital letters (ISO 4217).
#[must_use]
pub fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The most bytes that a gateway's own number of a payment may have. Gateways use far fewer. It stands in an index of the
/// database, which takes no long ones.
pub const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// Whether a text can be a gateway's own number of a payment.
#[must_use]
pub fn is_transaction_id(text: &str) -> bool {
    (1..=TRANSACTION_ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What the shop knows of an attempt to pay an order at a gateway. An order may have several. One without any is settled by its
/// own status alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PaymentFacts {
    /// The gateway's name among those that are configured.
    pub gateway: String,
    /// The number under which the gateway knows the trade.
    pub trade_no: String,
    /// What is to be paid.
    pub amount: Money,
    /// How far the shop got with telling the gateway.
    pub prepay: Prepay,
    /// When the shop told the gateway, or meant to.
    pub created_at: OffsetDateTime,
    /// When the gateway first said that it knows no such trade.
    pub not_found_at: Option<OffsetDateTime>,
    /// Until when a trade that the gateway does not know may still appear; `None`: as long as is usual there.
    pub payable_until: Option<OffsetDateTime>,
    /// What the gateway has said of it in the end.
    pub state: PaymentState,
}

impl PaymentFacts {
    /// Whether both are about the same trade.
    #[must_use]
    pub fn is_of_trade(&self, other: &Self) -> bool {
        self.gateway == other.gateway && self.trade_no == other.trade_no
    }
}

/// What a gateway has said of a trade in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// Nothing: it may still be paid.
    Open,
    /// It was paid.
    Paid,
    /// It can no longer be paid.
    Closed,
}

/// How far the shop got with creating the trade at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prepay {
    /// It never called the gateway.
    None,
    /// It called, or is about to; the outcome is not known.
    Attempted,
    /// The gateway has confirmed that the trade exists.
    Created,
}

/// What a gateway says of a trade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trade {
    /// Where it stands.
    pub state: TradeState,
    /// The gateway's own number of the payment; known once it was paid.
    pub transaction_id: Option<String>,
    /// When it was paid.
    pub paid_at: Option<OffsetDateTime>,
    /// What was paid, or is to be paid.
    pub amount: Option<Money>,
    /// Whether the gateway says that its transaction pays several trades at once.
    pub combined: bool,
    /// How much of what was paid went back, in the currency's smallest unit, where the state does not say it.
    pub refunded_minor: i64,
    /// What makes it another trade than the one that was asked for, such as a foreign merchant's number.
    pub discrepancy: Option<String>,
    /// The gateway's own words, as it has signed them; empty where they do not matter.
    pub said: Vec<u8>,
}

impl Trade {
    /// A trade of which nothing but the state is known.
    #[must_use]
    pub fn in_state(state: TradeState) -> Self {
        let said = Vec::new();
        Self {
            state,
            transaction_id: None,
            paid_at: None,
            amount: None,
            combined: false,
            refunded_minor: 0,
            discrepancy: None,
            said,
        }
    }

    /// The money that the trade tells of, however little it tells.
    #[must_use]
    pub fn money(&self) -> MoneyTold {
        MoneyTold {
            transaction_id: self.transaction_id.clone(),
            paid_at: self.paid_at,
            amount: self.amount.clone(),
            said: self.said.clone(),
        }
    }
}

/// Money of which a gateway tells, and which cannot be credited as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MoneyTold {
    /// The gateway's own number of the payment, if it told.
    pub transaction_id: Option<String>,
    /// When it was paid, if it told.
    pub paid_at: Option<OffsetDateTime>,
    /// How much, if it told.
    pub amount: Option<Money>,
    /// The gateway's own words, as it has signed them.
    pub said: Vec<u8>,
}

/// Where a trade stands. A fault (no answer, or none that can be trusted) is none of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TradeState {
    /// Waiting for the customer.
    NotPaid,
    /// The customer is paying at this moment.
    UserPaying,
    /// The customer has agreed to pay, and the money is set apart; the shop is to take it.
    Authorized,
    /// Paid.
    Paid,
    /// Closed unpaid; it cannot be paid any more.
    Closed,
    /// It was paid, and some or all of it went back.
    Refunded,
    /// A payment was tried and failed; the customer may try again.
    Failed,
    /// Taken back; it cannot be paid any more.
    Revoked,
    /// The gateway knows no such trade.
    NotFound,
    /// A state that this version does not know, as the gateway calls it.
    Unrecognized(String),
}

/// What a gateway says to the wish that a trade be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseOutcome {
    /// It will be closed; no proof that it is.
    Accepted,
    /// It was closed before.
    AlreadyClosed,
    /// Too late: it was paid.
    AlreadyPaid,
    /// The customer is paying at this moment.
    InProgress,
    /// There is no such trade.
    NotFound,
    /// It is too young to be closed.
    TooEarly,
    /// This gateway closes no trades: they expire by themselves.
    Unsupported,
}

/// A payment that a gateway vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The gateway's own number of the payment.
    pub transaction_id: String,
    /// When it was paid; `None` where the gateway does not tell.
    pub paid_at: Option<OffsetDateTime>,
    /// What was paid.
    pub amount: Money,
    /// Whether the gateway says that its transaction pays several trades at once.
    pub combined: bool,
}
