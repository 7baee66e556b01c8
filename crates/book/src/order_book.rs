use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use database::ServerTime;
use order::{Deadline, MoneyTold, Operator, OrderFacts, OrderId, PaymentFacts, Receipt, TimeoutId, TimeoutKind};
use time::OffsetDateTime;
use trace::TraceParent;

/// Where orders are looked up and settled. Pipelines, passive close, notifications and the sweep know orders by this alone;
/// what is behind it is PostgreSQL today.
///
/// Each call is about many orders. The reply has a verdict for each of them. An order that a reply leaves out is unknown in
/// its outcome: it is loaded and decided again, and never taken for closed or unpaid.
#[async_trait]
pub trait OrderBook: Send + Sync {
    /// Looks orders up. `gateway` is where an order is taken to be paid of which the book knows no payment; `None`: where the
    /// book says that such orders are paid.
    ///
    /// # Errors
    /// [`BookError`].
    async fn load(&self, ids: &[OrderId], gateway: Option<&str>) -> BookResult<Loaded>;

    /// Closes orders that are pending still and stand as they were loaded, with all that goes with it: stock, log, event.
    /// Each ID may stand in `closings` once. The trace is the one that the closes belong to.
    ///
    /// # Errors
    /// [`BookError`]: then none was closed, or it is not known.
    async fn settle(&self, closings: &[Closing], by: &Actor, trace: Option<&TraceParent>) -> BookResult<Closed>;

    /// Records payments: a pending order becomes paid and its stock is sold; the payment of one that has ended before is
    /// to be refunded. Each ID may stand in `payments` once.
    ///
    /// # Errors
    /// [`BookError`]: then nothing was recorded, or it is not known.
    async fn pay(&self, payments: &[Payment], by: &Actor, trace: Option<&TraceParent>) -> BookResult<Credited>;

    /// Records what gateways have said of trades that are not paid. A trade that is on record as paid stays so. Each trade may
    /// stand in `notes` once.
    ///
    /// # Errors
    /// [`BookError`]: then nothing was recorded, or it is not known.
    async fn note(&self, notes: &[TradeNote]) -> Result<(), BookError>;

    /// Writes down money that a gateway has taken and that cannot be credited, so that a person finds it among the refunds. The
    /// same money again is the same row.
    ///
    /// # Errors
    /// [`BookError`]: then nothing was recorded, or it is not known.
    async fn set_aside(&self, money: &[MoneyAside]) -> Result<(), BookError>;

    /// Whether orders can be loaded and settled at all: whether everything is there that the calls above need, and may be
    /// used. Changes nothing. Returns the book's time.
    ///
    /// # Errors
    /// [`BookError::Misconfigured`] names what is wrong for every order alike; [`BookError::Away`].
    async fn ready(&self) -> Result<ServerTime, BookError> {
        self.load(&[], None).await.map(|reply| reply.time)
    }

    /// Those of these orders whose deadline was in the past from the first: it was moved there, or the order was created or
    /// opened again so. No message was lost if such an order is found past its deadline.
    ///
    /// # Errors
    /// [`BookError`].
    async fn moved(&self, ids: &[OrderId]) -> Result<HashSet<OrderId>, BookError> {
        let _ = ids;
        Ok(HashSet::new())
    }

    /// Keeps timeouts back that came out of their lanes before their time, as if they had not been sent yet: the lanes do not
    /// keep them. Returns the book's time; `None`: this book cannot, and they are handled as they are.
    ///
    /// # Errors
    /// [`BookError`]: then none is kept, or it is not known.
    async fn keep_back(&self, timeouts: &[KeptBack]) -> Result<Option<ServerTime>, BookError> {
        let _ = timeouts;
        Ok(None)
    }

    /// Orders that have ended and have a payment that could still be made, as far as the time for the next look at it has come.
    /// The look after that is put off, each time further.
    ///
    /// # Errors
    /// [`BookError`].
    async fn unfinished(&self, orders_max: usize) -> Result<Vec<OrderId>, BookError> {
        let _ = orders_max;
        Ok(Vec::new())
    }

    /// A page of orders that are pending past their deadline. `None`: this book cannot tell, so there is no sweep.
    ///
    /// # Errors
    /// [`BookError`].
    async fn overdue(&self, page: &PageRequest) -> Result<Option<OverduePage>, BookError> {
        let _ = page;
        Ok(None)
    }
}

/// A timeout that came out of its lane before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBack {
    /// The order, or the timer.
    pub id: TimeoutId,
    /// What is due.
    pub kind: TimeoutKind,
    /// When it was to come out.
    pub due: OffsetDateTime,
    /// How long it is not sent again.
    pub wait: Duration,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
}

/// The reply to a call.
pub type BookResult<T> = Result<Reply<T>, BookError>;

/// What a book says of the orders, or timers, of a call.
#[derive(Debug)]
pub struct Reply<T, I = OrderId> {
    /// The book's time. It decides whether a deadline has passed.
    pub time: ServerTime,
    /// By ID. One that is missing here may have changed: load it again.
    pub items: HashMap<I, ItemReply<T>>,
}

/// What a book says of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemReply<T> {
    /// Done, or found.
    Done(T),
    /// The order is not as it was loaded. Nothing was done; load it again.
    Changed,
    /// The book has no such order.
    Unknown,
    /// The order, or what goes with it, is in use, or takes too long; and why. Nothing was done; try again later.
    Locked(String),
    /// The book will never do this, and why.
    Refused(String),
    /// Nothing was done; try again after this time.
    Later(Duration),
}

/// An order as it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What the decision needs.
    pub facts: OrderFacts,
    /// Goes back with a [`Closing`].
    pub revision: Option<Revision>,
}

/// A mark of an order's version, of a form that only its book knows. It goes from [`Loaded`] back to [`Closing`], so that
/// the book can see that nothing has changed in between. `None` where the book guards by deadline and payment alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(pub String);

/// An order that is to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Its ID.
    pub id: OrderId,
    /// The deadline with which it was loaded. If it has another by now, it is not closed.
    pub deadline: Deadline,
    /// The revision with which it was loaded.
    pub revision: Option<Revision>,
    /// The payments that can no longer be made, as their gateways have said. If it has another by now, it is not closed.
    pub payments: Vec<PaymentFacts>,
    /// How long after the close its trades are to be looked for once more. The book arms that along with the close.
    pub recheck: Option<Duration>,
}

/// Who settles orders, and why: what the order log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The part of the program, such as `worker`.
    pub name: String,
    /// Why orders are closed, such as `payment timeout`.
    pub reason: String,
    /// The person who had it done, if one had.
    pub operator: Option<Operator>,
}

impl Actor {
    /// A part of the program that closes orders because their deadline has passed.
    #[must_use]
    pub fn on_timeout(name: &str) -> Self {
        Self { name: name.to_owned(), reason: "payment timeout".to_owned(), operator: None }
    }
}

/// An order was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// From the deadline to the close, by the book's clock.
    pub lateness: Duration,
    /// Its SKUs of which no stock came back, because there is no such SKU any more, or the quantity is none; `None`: all
    /// came back.
    pub without_stock: Option<String>,
}

/// A payment that a gateway vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The order that was paid.
    pub id: OrderId,
    /// The gateway that says so.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// What it says.
    pub receipt: Receipt,
    /// The number of the refund, should the payment have to go back.
    pub refund_no: String,
    /// Its number, if another payment of the order goes back under the first one.
    pub further_refund_no: String,
}

/// How a payment was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credited {
    /// The order was pending and is paid now.
    Paid,
    /// The order was closed or cancelled before: a refund is on record now.
    Late,
    /// It was on record before, as a payment or as a refund.
    Already,
    /// The order was paid at a gateway before, by another payment: a refund of this one is on record now.
    Twice,
    /// The order was paid before, and no gateway vouches for that payment. Which of the two goes back is for a person to say; it
    /// is among the refunds.
    Disputed,
    /// The transaction is on record for another trade, and the gateway does not say that it pays both. It is among the refunds,
    /// for a person.
    Shared,
    /// The order stayed pending although the book took the payment.
    Unchanged,
}

impl Credited {
    /// The same in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Paid => "the order is paid",
            Self::Late => "too late, it goes back",
            Self::Already => "it was on record",
            Self::Twice => "the order was paid before, it goes back",
            Self::Disputed => "the order was paid otherwise, a person must look",
            Self::Shared => "the transaction is on record for another trade, a person must look",
            Self::Unchanged => "the order stayed pending",
        }
    }
}

/// Money that a gateway has taken and that cannot be credited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyAside {
    /// The order that it came for, if there is one.
    pub id: Option<OrderId>,
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// What the gateway tells of it.
    pub money: MoneyTold,
    /// Why it cannot be credited.
    pub problem: String,
}

/// What a gateway has said of a trade that is not paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TradeNote {
    /// The order.
    pub id: OrderId,
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// What it has said.
    pub finding: TradeFinding,
}

/// What is to be kept of a gateway's answer about a trade that is not paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TradeFinding {
    /// It can no longer be paid.
    Gone,
    /// The gateway knows no such trade, and that is believed, unless it was seen meanwhile.
    Absent,
    /// The gateway knows no such trade, yet.
    NotFound,
    /// The gateway knows no such trade, and the order was closed on that just now.
    Missed,
    /// The trade exists. If the gateway denies that later, a person must look.
    Exists,
}

/// Which page of overdue orders is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How long their deadline must have passed.
    pub grace: Duration,
    /// Where the page before ended; `None`: the first page.
    pub after: Option<Bookmark>,
    /// The most orders on it.
    pub orders_max: usize,
}

/// Orders that are pending past their deadline, in the order of their deadlines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverduePage {
    /// Their IDs.
    pub ids: Vec<OrderId>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Bookmark>,
}

/// The last row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Its deadline, in a form that only its book knows: it may lie before or after all that a clock can hold.
    pub deadline: String,
    /// Its ID, which may be none of ours.
    pub id: String,
}

/// Why a whole call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The book does not answer. No fault of the orders; the same call again later.
    #[error("the order book cannot be used now: {0}")]
    Away(String),
    /// The book is set up wrongly, such as without a right. No fault of the orders; the same call again later.
    #[error("the order book is set up wrongly: {0}")]
    Misconfigured(String),
    /// The book answers that it cannot do it now. Most often that is no fault of the orders, and the same call a little later
    /// will do. If not, fewer orders at a time show whether it is one of them.
    #[error("the order book is busy: {0}")]
    Busy(String),
    /// It took too long, or waited too long for another transaction. Fewer orders at a time may do.
    #[error("the order book was too slow: {0}")]
    Slow(String),
    /// One of the orders breaks a rule, it seems. Fewer orders at a time show which.
    #[error("the order book refused: {0}")]
    Refused(String),
}
