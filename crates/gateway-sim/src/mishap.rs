use serde::{Deserialize, Serialize};

/// A call about one trade: the nth of its kind, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// A query of the trade.
    Query(u32),
    /// A close.
    Close(u32),
    /// A refund.
    Refund(u32),
    /// A query of a refund.
    RefundQuery(u32),
}

/// What may go wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mishap {
    /// The customer pays just before the call is looked at.
    PayBefore,
    /// The customer pays just after it was done, before the answer arrives.
    PayAfter,
    /// The connection breaks before anything is done.
    LoseRequest,
    /// It is done, and the connection breaks before the answer is sent.
    LoseAnswer,
    /// Nothing is done and nothing is answered for so many milliseconds; then the connection breaks.
    Hang(u64),
    /// The answer takes so many milliseconds more.
    Slow(u64),
    /// The answer's body comes a byte at a time, so many milliseconds apart.
    Drip(u64),
    /// Nothing is done; answered with this status and this code in JSON.
    Error(u16, String),
    /// Nothing is done; answered with this status and a page in HTML.
    Html(u16),
    /// Nothing is done; answered with this status and no body.
    Empty(u16),
    /// A close is answered with 204 and not done.
    PretendToClose,
    /// A query shows the trade as it was before it was paid or closed.
    StaleRead,
    /// Says that there is no such trade.
    NotExist,
    /// Says that the customer is paying.
    UserPaying,
    /// Says that the trade is in a state of this name.
    State(String),
    /// Tells an amount that is one smaller.
    WrongAmount,
    /// Tells another application's ID.
    WrongApplication,
    /// Tells of another trade, with a good signature.
    OtherTrade,
    /// Does not sign.
    Unsigned,
    /// Signs wrongly.
    BadSignature,
    /// Signs wrongly on purpose, and says so.
    Probe,
    /// Signs as of ten minutes ago.
    Stale,
    /// Signs with an unknown key.
    UnknownKey,
    /// Sends the answer that it sent before to this kind of call, signature and all.
    Replay,
    /// Refuses a refund for lack of money.
    NotEnough,
    /// A refund cannot be completed.
    Abnormal,
}
