use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deadpool_postgres::{GenericClient as _, PoolError};
use order::{
    Deadline, Money, Operator, OrderFacts, OrderId, OrderStatus, PaymentFacts, Prepay, Receipt, Trade, is_currency,
};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use trace::TraceParent;

use crate::Pool;
use crate::database::with_source;

/// Where orders are looked up and settled: PostgreSQL. Nothing of SQL goes further than here.
#[derive(Clone)]
pub struct OrderBook {
    pool: Pool,
    answer_timeout: Duration,
    default_gateway: Option<String>,
}

/// Orders as they stood at one moment.
#[derive(Debug)]
pub struct Loaded {
    /// By ID; an ID that is missing here is unknown to the database. An error says why a row that is there
    /// cannot be used.
    pub orders: HashMap<OrderId, Result<OrderFacts, String>>,
    /// That moment, by the database's clock.
    pub now: OffsetDateTime,
}

/// An order that is to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Its ID.
    pub id: OrderId,
    /// The deadline with which it was loaded: if it has another by now, it is not closed.
    pub deadline: Deadline,
    /// The payment of which its gateway has said that nobody can make it any more; `None`: it had none. If it has
    /// another by now, it is not closed.
    pub asked: Option<PaymentFacts>,
    /// Its trade is to be looked for once more so long after the close, by a message that is armed along with it.
    pub look_again_after: Option<Duration>,
}

/// What became of orders that were to be written together. Those that it does not name have changed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    /// What was done.
    pub done: Vec<T>,
    /// Orders that somebody else holds locked for longer than is waited for.
    pub locked: Vec<OrderId>,
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

/// An order that was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Its ID.
    pub id: OrderId,
    /// From the deadline to the close, by the database's clock.
    pub lateness: Duration,
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
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credited {
    /// The order was pending and is paid now.
    Paid,
    /// The order was closed or cancelled before: a refund is on record now.
    Late,
    /// It was on record before, as a payment or as a refund.
    Already,
    /// There is another payment of this order on record. A person must look.
    Twice,
    /// The order stayed pending, whatever kept it so.
    Unchanged,
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
    pub told: Told,
}

/// What a gateway has said of a trade that is not paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nobody can pay it any more.
    Gone,
    /// It knows no such trade, and that is believed, unless somebody has seen it meanwhile.
    Absent,
    /// It knows no such trade, yet.
    NotFound,
    /// The same, and the order was closed on that just now.
    Missed,
    /// The trade exists: if it denies that later, a person must look.
    Exists,
}

impl Told {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Absent => "absent",
            Self::NotFound => "not_found",
            Self::Missed => "missed",
            Self::Exists => "exists",
        }
    }
}

/// Why the book could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Nothing is wrong with the orders: the database is away, overloaded or set up wrongly. Nothing was
    /// changed, or it is not known; the same again later.
    #[error("the database cannot be used now: {0}")]
    Away(String),
    /// Somebody holds a row locked for longer than is waited for. Nothing was changed.
    #[error("the database holds a row locked: {0}")]
    Locked(String),
    /// It took longer than a statement may. Nothing was changed; fewer orders at a time may do.
    #[error("the database was too slow: {0}")]
    Slow(String),
    /// The database refused what was to be written: an order breaks a rule. Nothing was changed.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl OrderBook {
    /// The book in this database. `answer_timeout` is how long a query may take before its connection counts
    /// as dead, which it may be without anybody having said so; longer than the database's own statement timeout.
    /// `default_gateway` is asked for orders of which the table of payments says nothing; `None`: nobody is.
    #[must_use]
    pub fn new(pool: Pool, answer_timeout: Duration, default_gateway: Option<String>) -> Self {
        Self { pool, answer_timeout, default_gateway: default_gateway.filter(|name| name != NO_GATEWAY) }
    }

    /// Looks the orders up, all in one query.
    ///
    /// # Errors
    /// [`BookError::Away`].
    pub async fn load(&self, ids: &[OrderId]) -> Result<Loaded, BookError> {
        self.load_paid_at(ids, self.default_gateway.as_deref()).await
    }

    /// The same, with another gateway for orders of which the table of payments says nothing.
    pub(crate) async fn load_paid_at(&self, ids: &[OrderId], gateway: Option<&str>) -> Result<Loaded, BookError> {
        let ids: Vec<&str> = ids.iter().map(OrderId::as_str).collect();
        let rows = self
            .with_client(async |client| {
                let statement = client.prepare_cached(include_str!("load.sql")).await?;
                client.query(&statement, &[&ids, &gateway]).await
            })
            .await?;
        let mut loaded = Loaded { orders: HashMap::with_capacity(rows.len()), now: OffsetDateTime::UNIX_EPOCH };
        for row in rows {
            loaded.now = row.try_get("now").map_err(judge)?;
            let Ok(id) = OrderId::new(row.try_get("id").map_err(judge)?) else { continue };
            if let Some(status) = row.try_get("status").map_err(judge)? {
                loaded.orders.insert(id, facts(&row, status));
            }
        }
        Ok(loaded)
    }

    /// Closes the orders that are pending still and have the deadline with which they were loaded: the order,
    /// its stock, its log row and its idempotency key, in one transaction. Returns those; the others have
    /// changed meanwhile. Each ID may stand in `closings` once.
    ///
    /// # Errors
    /// [`BookError::Refused`] if one of the orders breaks a rule: then none was closed.
    pub async fn settle(
        &self,
        closings: &[Closing],
        actor: &Actor,
        traceparent: Option<&TraceParent>,
    ) -> Result<Written<Closed>, BookError> {
        match self.close(closings, actor, traceparent).await {
            Err(BookError::Locked(_)) => {
                let (free, locked) = self.apart(closings, |closing| &closing.id).await?;
                Ok(Written { done: self.close(&free, actor, traceparent).await?, locked })
            }
            closed => Ok(Written { done: closed?, locked: Vec::new() }),
        }
    }

    async fn close(
        &self,
        closings: &[Closing],
        actor: &Actor,
        traceparent: Option<&TraceParent>,
    ) -> Result<Vec<Closed>, BookError> {
        if closings.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = closings.iter().map(|closing| closing.id.as_str()).collect();
        let deadlines: Vec<OffsetDateTime> = closings.iter().map(|closing| closing.deadline.instant()).collect();
        let keys: Vec<String> = closings.iter().map(idempotency_key).collect();
        let asked = || closings.iter().map(|closing| closing.asked.as_ref());
        let trade_nos: Vec<Option<&str>> = asked().map(|asked| asked.map(|asked| asked.trade_no.as_str())).collect();
        let prepays: Vec<Option<&str>> = asked().map(|asked| asked.map(|asked| prepay_name(asked.prepay))).collect();
        let operator = actor.operator.as_ref();
        let (kind, operator) = (operator.map(|person| &person.kind), operator.map(|person| &person.name));
        let again_s: Vec<Option<f64>> =
            closings.iter().map(|closing| closing.look_again_after.map(|after| after.as_secs_f64())).collect();
        let trace = traceparent.map(TraceParent::as_str);
        let arguments: [&(dyn ToSql + Sync); 11] = [
            &ids,
            &deadlines,
            &keys,
            &actor.name,
            &trade_nos,
            &prepays,
            &actor.reason,
            &kind,
            &operator,
            &again_s,
            &trace,
        ];
        let rows = self.under_lock(&ids, include_str!("settle.sql"), &arguments).await?;
        rows.iter().map(closed).collect()
    }

    /// Writes payments down: what is pending becomes paid, and its stock is sold; what was closed or cancelled
    /// before is to be refunded. Each ID may stand in `payments` once; those that are missing from the answer are
    /// unknown to the database.
    ///
    /// # Errors
    /// [`BookError::Refused`] if one of the orders breaks a rule: then nothing was written.
    pub async fn pay(
        &self,
        payments: &[Payment],
        actor: &str,
        traceparent: Option<&TraceParent>,
    ) -> Result<Written<(OrderId, Credited)>, BookError> {
        match self.credit(payments, actor, traceparent).await {
            Err(BookError::Locked(_)) => {
                let (free, locked) = self.apart(payments, |payment| &payment.id).await?;
                Ok(Written { done: self.credit(&free, actor, traceparent).await?, locked })
            }
            credited => Ok(Written { done: credited?, locked: Vec::new() }),
        }
    }

    async fn credit(
        &self,
        payments: &[Payment],
        actor: &str,
        traceparent: Option<&TraceParent>,
    ) -> Result<Vec<(OrderId, Credited)>, BookError> {
        if payments.is_empty() {
            return Ok(Vec::new());
        }
        let texts = |of: fn(&Payment) -> &str| payments.iter().map(of).collect::<Vec<_>>();
        let ids = texts(|payment| payment.id.as_str());
        let transactions = texts(|payment| &payment.receipt.transaction_id);
        let paid_ats: Vec<Option<OffsetDateTime>> = payments.iter().map(|payment| payment.receipt.paid_at).collect();
        let keys: Vec<String> = payments
            .iter()
            .map(|payment| format!("payment:{}:{}", payment.id, payment.receipt.transaction_id))
            .collect();
        let (gateways, trade_nos) = (texts(|payment| &payment.gateway), texts(|payment| &payment.trade_no));
        let amounts: Vec<i64> = payments.iter().map(|payment| payment.receipt.amount.minor).collect();
        let currencies = texts(|payment| &payment.receipt.amount.currency);
        let refund_nos: Vec<String> = payments.iter().map(|payment| payment::refund_no(&payment.id)).collect();
        let trace = traceparent.map(TraceParent::as_str);
        let arguments: [&(dyn ToSql + Sync); 11] = [
            &ids,
            &transactions,
            &paid_ats,
            &keys,
            &gateways,
            &trade_nos,
            &amounts,
            &currencies,
            &refund_nos,
            &actor,
            &trace,
        ];
        let rows = self.under_lock(&ids, include_str!("pay.sql"), &arguments).await?;
        rows.iter().map(credited).collect()
    }

    /// Writes down money that a gateway has taken and that belongs to no order here, or not to the one that it names,
    /// so that a person finds it among the refunds. The same money again is the same row.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn record_unplaced(
        &self,
        gateway: &str,
        trade_no: &str,
        trade: &Trade,
        problem: &str,
    ) -> Result<(), BookError> {
        let (minor, currency) = match &trade.amount {
            Some(Money { minor, currency }) if *minor >= 0 && is_currency(currency) => (*minor, currency.as_str()),
            // ISO 4217's code for no currency.
            _ => (0, "XXX"),
        };
        let transaction_id = trade.transaction_id.as_deref().unwrap_or("unknown");
        self.with_client(async |client| {
            let record = client.prepare_cached(include_str!("unplaced.sql")).await?;
            client.execute(&record, &[&gateway, &trade_no, &transaction_id, &minor, &currency, &problem]).await
        })
        .await
        .map(drop)
    }

    /// Writes down what gateways have said of trades that are not paid; what is known to be paid stays so. Each ID
    /// may stand in `notes` once.
    ///
    /// # Errors
    /// [`BookError::Refused`] if one of the notes breaks a rule: then nothing was written.
    pub async fn note(&self, notes: &[TradeNote]) -> Result<(), BookError> {
        if notes.is_empty() {
            return Ok(());
        }
        // In the order of the IDs, as everybody locks rows.
        let mut notes = notes.to_vec();
        notes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let texts = |of: fn(&TradeNote) -> &str| notes.iter().map(of).collect::<Vec<_>>();
        let ids = texts(|note| note.id.as_str());
        let (gateways, trade_nos) = (texts(|note| &note.gateway), texts(|note| &note.trade_no));
        let told = texts(|note| note.told.as_str());
        self.with_client(async |client| {
            let note = client.prepare_cached(include_str!("note.sql")).await?;
            client.execute(&note, &[&ids, &gateways, &trade_nos, &told]).await
        })
        .await
        .map(drop)
    }

    /// The order that a gateway knows by this number; `None`: no order does.
    ///
    /// # Errors
    /// [`BookError::Away`].
    pub async fn order_of_trade(&self, gateway: &str, trade_no: &str) -> Result<Option<OrderId>, BookError> {
        let row = self
            .with_client(async |client| {
                let find = client
                    .prepare_cached(
                        "select coalesce(
                             (select order_id from payments where trade_no = $1 and gateway = $2 limit 1),
                             (select id from orders where id = $1)) as id",
                    )
                    .await?;
                client.query_one(&find, &[&trade_no, &gateway]).await
            })
            .await?;
        let id: Option<&str> = row.try_get("id").map_err(judge)?;
        Ok(id.and_then(|id| OrderId::new(id).ok()))
    }

    /// Work on orders that are free at this moment, and those that somebody holds locked.
    async fn apart<T: Clone>(&self, work: &[T], id: fn(&T) -> &OrderId) -> Result<(Vec<T>, Vec<OrderId>), BookError> {
        let ids: Vec<&str> = work.iter().map(|part| id(part).as_str()).collect();
        let rows = self
            .with_client(async |client| {
                let look = concat!(include_str!("lock.sql"), " skip locked");
                let look = client.prepare_cached(look).await?;
                let transaction = client.transaction().await?;
                let rows = transaction.query(&look, &[&ids]).await?;
                transaction.rollback().await?;
                Ok(rows)
            })
            .await?;
        let free: HashSet<&str> = rows.iter().map(|row| row.try_get("id").map_err(judge)).collect::<Result<_, _>>()?;
        let (free, held): (Vec<T>, Vec<T>) = work.iter().cloned().partition(|part| free.contains(id(part).as_str()));
        Ok((free, held.iter().map(|part| id(part).clone()).collect()))
    }

    /// Runs a statement in a transaction that holds the locks of these orders: it begins after everybody who had one of
    /// them before, and sees what they left.
    async fn under_lock(
        &self,
        ids: &[&str],
        statement: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, BookError> {
        self.with_client(async |client| {
            let lock = client.prepare_cached(include_str!("lock.sql")).await?;
            let statement = client.prepare_cached(statement).await?;
            let transaction = client.transaction().await?;
            transaction.execute(&lock, &[&ids]).await?;
            let rows = transaction.query(&statement, arguments).await?;
            transaction.commit().await?;
            Ok(rows)
        })
        .await
    }

    /// How many connections to the database are open, how many of them nobody uses, and how many there may be.
    #[must_use]
    pub fn connections(&self) -> (usize, usize, usize) {
        let status = self.pool.status();
        (status.size, status.available, status.max_size)
    }

    /// A connection of its own, which the pool forgets.
    pub(crate) async fn take_connection(&self) -> Result<deadpool_postgres::ClientWrapper, BookError> {
        self.pool.get().await.map(deadpool_postgres::Client::take).map_err(away)
    }

    pub(crate) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    pub(crate) async fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&mut deadpool_postgres::Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, BookError> {
        let mut client = self.pool.get().await.map_err(away)?;
        let outcome = match tokio::time::timeout(self.answer_timeout, work(&mut client)).await {
            Ok(answer) => answer.map_err(judge),
            Err(_) => Err(BookError::Away(format!("no answer within {} ms", self.answer_timeout.as_millis()))),
        };
        if matches!(outcome, Err(BookError::Away(_))) {
            // It may be dead, or lead to a server that has become read-only; the next may lead to a better one.
            drop(deadpool_postgres::Client::take(client));
        }
        outcome
    }
}

/// As a default, and in the table of payments: no gateway is asked.
const NO_GATEWAY: &str = "none";

/// The same for every attempt at closing this order on this deadline, whoever makes it.
fn idempotency_key(closing: &Closing) -> String {
    format!("payment-timeout:{}:{}", closing.id, closing.deadline)
}

fn facts(row: &Row, status: &str) -> Result<OrderFacts, String> {
    let status: OrderStatus = status.parse().map_err(|error: order::BadStatus| error.to_string())?;
    let deadline: Option<OffsetDateTime> = row.try_get("payment_deadline").map_err(|error| with_source(&error))?;
    let deadline = deadline.map(Deadline::at).ok_or("it has no payment deadline")?;
    Ok(OrderFacts { status, deadline, payment: payment_facts(row).map_err(|error| with_source(&error))? })
}

fn payment_facts(row: &Row) -> Result<Option<PaymentFacts>, tokio_postgres::Error> {
    let gateway: Option<String> = row.try_get("gateway")?;
    let Some(gateway) = gateway.filter(|gateway| gateway != NO_GATEWAY) else { return Ok(None) };
    let prepay = match row.try_get("prepay")? {
        "none" => Prepay::None,
        "created" => Prepay::Created,
        _ => Prepay::Attempted,
    };
    Ok(Some(PaymentFacts {
        gateway,
        trade_no: row.try_get("trade_no")?,
        amount: Money { minor: row.try_get("amount_minor")?, currency: row.try_get("currency")? },
        prepay,
        created_at: row.try_get("trade_created_at")?,
        not_found_at: row.try_get("not_found_at")?,
        open: row.try_get::<_, &str>("trade_state")? == "open",
    }))
}

fn prepay_name(prepay: Prepay) -> &'static str {
    match prepay {
        Prepay::None => "none",
        Prepay::Attempted => "attempted",
        Prepay::Created => "created",
    }
}

fn credited(row: &Row) -> Result<(OrderId, Credited), BookError> {
    let id: &str = row.try_get("id").map_err(judge)?;
    let credited = match row.try_get("outcome").map_err(judge)? {
        "paid" => Credited::Paid,
        "late" => Credited::Late,
        "twice" => Credited::Twice,
        "already" => Credited::Already,
        _ => Credited::Unchanged,
    };
    Ok((OrderId::new(id).map_err(|error| BookError::Away(error.to_string()))?, credited))
}

fn closed(row: &Row) -> Result<Closed, BookError> {
    let id: &str = row.try_get("id").map_err(judge)?;
    let closed_at: OffsetDateTime = row.try_get("closed_at").map_err(judge)?;
    let deadline: OffsetDateTime = row.try_get("deadline").map_err(judge)?;
    let id = OrderId::new(id).map_err(|error| BookError::Away(error.to_string()))?;
    Ok(Closed { id, lateness: Duration::try_from(closed_at - deadline).unwrap_or_default() })
}

fn away(error: PoolError) -> BookError {
    match error {
        PoolError::Backend(error) => judge(error),
        error => BookError::Away(with_source(&error)),
    }
}

/// Only what an order's own data can cause counts as refused: a value that does not fit (class 22), a broken
/// constraint (23), a check option of a view (44), an error that a trigger raised (P0001). All else, from a
/// deadlock to a missing permission, is no fault of the orders, and they must not be parked for it.
pub(crate) fn judge(error: tokio_postgres::Error) -> BookError {
    let Some(db) = error.as_db_error() else { return BookError::Away(with_source(&error)) };
    let text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    let class = &db.code().code()[..2];
    if matches!(class, "22" | "23" | "44") || *db.code() == SqlState::RAISE_EXCEPTION {
        BookError::Refused(text)
    } else if *db.code() == SqlState::LOCK_NOT_AVAILABLE {
        BookError::Locked(text)
    } else if *db.code() == SqlState::QUERY_CANCELED {
        BookError::Slow(text)
    } else {
        BookError::Away(text)
    }
}
