use order::{Deadline, OrderId, OrderStatus};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Why an order was not created or changed. Nothing was written then.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is one with this ID.
    #[error("order {0} exists already")]
    Exists(OrderId),
    /// There is none with this ID.
    #[error("there is no order {0}")]
    Unknown(OrderId),
    /// Nothing is ordered.
    #[error("an order needs at least one item")]
    NoItems,
    /// A quantity below 1, or quantities that add up to more than a 64-bit number.
    #[error("the quantity of {0} is not a sensible number")]
    BadQuantity(String),
    /// An amount or a currency that the database would refuse.
    #[error("the amount must not be negative, and the currency is three capital letters such as CNY")]
    BadAmount,
    /// An amount of nothing, to be paid at a gateway.
    #[error("an order of amount 0 has nothing to be paid at a gateway; create it without one")]
    NothingToPay,
    /// A trade number that the gateway does not take.
    #[error("{0}")]
    BadTradeNo(String),
    /// A payment timeout of zero, or one that leads beyond the calendar.
    #[error("the payment timeout must lie between a millisecond and ten years")]
    BadTimeout,
    /// A deadline that is no later than the one that the order has.
    #[error("order {id} is to be paid by {deadline} already; extend it to a later time")]
    NotLater {
        /// Its ID.
        id: OrderId,
        /// When it falls due.
        deadline: Deadline,
    },
    /// A SKU that the inventory does not have.
    #[error("there is no SKU {0}")]
    UnknownSku(String),
    /// Less is available than ordered.
    #[error("not enough stock of {sku}: {wanted} wanted, {available} available")]
    NotEnoughStock {
        /// The SKU.
        sku: String,
        /// How many were ordered.
        wanted: i64,
        /// How many are there.
        available: i64,
    },
    /// It is paid, cancelled or closed already.
    #[error("order {id} is {status} already")]
    NotPending {
        /// Its ID.
        id: OrderId,
        /// Where it stands.
        status: OrderStatus,
    },
    /// Only a closed order can be opened again.
    #[error("order {id} is {status}; only an order that was closed can be opened again")]
    NotClosed {
        /// Its ID.
        id: OrderId,
        /// Where it stands.
        status: OrderStatus,
    },
    /// Its trade at a gateway was closed for good.
    #[error("the trade of order {id} at {gateway} cannot be paid any more; create a new order")]
    TradeGone {
        /// Its ID.
        id: OrderId,
        /// The gateway.
        gateway: String,
    },
    /// It is pending still, but its deadline has passed: it is about to be closed.
    #[error("order {id} was to be paid by {deadline}; it is about to be closed")]
    Overdue {
        /// Its ID.
        id: OrderId,
        /// When it fell due.
        deadline: Deadline,
    },
    /// The database said no.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Why a change found no pending order that is not past its deadline.
pub(crate) async fn refusal(transaction: &mut PgConnection, id: &OrderId) -> OrderError {
    let row: Result<Option<(String, OffsetDateTime)>, sqlx::Error> =
        sqlx::query_as("select status, payment_deadline from orders where id = $1")
            .bind(id.as_str())
            .fetch_optional(transaction)
            .await;
    match row {
        Err(error) => error.into(),
        Ok(None) => OrderError::Unknown(id.clone()),
        Ok(Some((status, deadline))) => match status.parse() {
            Ok(OrderStatus::Pending) => OrderError::Overdue { id: id.clone(), deadline: Deadline::at(deadline) },
            Ok(status) => OrderError::NotPending { id: id.clone(), status },
            Err(error) => OrderError::Database(sqlx::Error::Decode(Box::new(error))),
        },
    }
}
