//! The order service that Overdue brings along: for shops that have none, for the demo, and as the example
//! for those that have one.

use std::collections::BTreeMap;
use std::time::Duration;

use order::{Deadline, OrderId, OrderStatus, is_currency};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{arm, expect_payment};

/// An order that is to be created.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Its ID.
    pub id: OrderId,
    /// What is to be paid, in the smallest unit of the currency.
    pub amount_minor: i64,
    /// Three capital letters, such as `CNY` (ISO 4217).
    pub currency: String,
    /// What is ordered. Lines with the same SKU are added up.
    pub items: Vec<Item>,
    /// The gateway where it is to be paid, by the name under which it is configured; `None`: the shop itself
    /// marks it as paid.
    pub gateway: Option<String>,
    /// How long the customer has to pay, from now by the database's clock.
    pub payment_timeout: Duration,
}

/// A quantity of one SKU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// The stock-keeping unit.
    pub sku: String,
    /// How many; at least 1.
    pub quantity: i64,
}

/// An order as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its ID.
    pub id: OrderId,
    /// Where it stands.
    pub status: OrderStatus,
    /// When it falls due.
    pub deadline: Deadline,
}

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

/// Ten years.
pub(crate) const PAYMENT_TIMEOUT_MAX: Duration = Duration::from_hours(24 * 3653);

/// Creates an order: the order, its items, the stock that it reserves, a log row and the outbox row of its
/// timeout, in one transaction.
///
/// # Errors
/// [`OrderError`]; nothing is changed then.
pub async fn create(pool: &PgPool, new: &NewOrder) -> Result<Order, OrderError> {
    let mut transaction = pool.begin().await?;
    let order = create_in(&mut transaction, new).await?;
    transaction.commit().await?;
    Ok(order)
}

/// The same in a transaction of the caller's, which is of no use any more after an error.
///
/// # Errors
/// [`OrderError`].
pub async fn create_in(transaction: &mut PgConnection, new: &NewOrder) -> Result<Order, OrderError> {
    let quantities = quantities(&new.items)?;
    if new.amount_minor < 0 || !is_currency(&new.currency) {
        return Err(OrderError::BadAmount);
    }
    if new.payment_timeout < Duration::from_millis(1) || new.payment_timeout > PAYMENT_TIMEOUT_MAX {
        return Err(OrderError::BadTimeout);
    }
    let deadline = insert_order(transaction, new).await?;
    reserve(transaction, &quantities).await?;
    let (skus, counts): (Vec<&str>, Vec<i64>) = quantities.into_iter().unzip();
    sqlx::query(
        "insert into order_items (order_id, sku_id, quantity) select $1, * from unnest($2::text[], $3::bigint[])",
    )
    .bind(new.id.as_str())
    .bind(&skus)
    .bind(&counts)
    .execute(&mut *transaction)
    .await?;
    log(transaction, &new.id, None, OrderStatus::Pending, "created").await?;
    if let Some(gateway) = &new.gateway {
        expect_payment(transaction, &new.id, gateway).await?;
    }
    arm(transaction, &new.id, deadline).await?;
    Ok(Order { id: new.id.clone(), status: OrderStatus::Pending, deadline })
}

/// Marks a pending order as paid and its stock as sold.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Overdue`] (after the deadline no payment is taken),
/// [`OrderError::Unknown`]; nothing is changed then.
pub async fn pay(pool: &PgPool, id: &OrderId, transaction_id: Option<&str>) -> Result<(), OrderError> {
    let mut transaction = pool.begin().await?;
    pay_in(&mut transaction, id, transaction_id).await?;
    Ok(transaction.commit().await?)
}

/// The same in a transaction of the caller's, which is of no use any more after an error.
///
/// # Errors
/// As above.
pub async fn pay_in(
    transaction: &mut PgConnection,
    id: &OrderId,
    transaction_id: Option<&str>,
) -> Result<(), OrderError> {
    let paid = sqlx::query(
        "with paid as (
             update orders set status = 'paid', paid_at = clock_timestamp(), transaction_id = $2
             where id = $1 and status = 'pending' and payment_deadline > clock_timestamp()
             returning *
         )
         insert into outbox (order_id, due_at, event, event_id, data)
         select id, paid_at, 'order.paid', concat_ws(':', 'payment', id, transaction_id), json_build_object(
             'order_id', id, 'paid_at', paid_at, 'transaction_id', transaction_id, 'gateway', null,
             'actor', 'order-service', 'amount_minor', amount_minor, 'currency', currency)
         from paid",
    )
    .bind(id.as_str())
    .bind(transaction_id)
    .execute(&mut *transaction)
    .await?;
    if paid.rows_affected() == 0 {
        return Err(refusal(transaction, id).await);
    }
    settle_stock(transaction, id, OrderStatus::Paid).await?;
    log(transaction, id, Some(OrderStatus::Pending), OrderStatus::Paid, "paid").await?;
    Ok(())
}

/// Cancels a pending order and gives its stock back.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Unknown`]; nothing is changed then.
pub async fn cancel(pool: &PgPool, id: &OrderId) -> Result<(), OrderError> {
    let mut transaction = pool.begin().await?;
    cancel_in(&mut transaction, id).await?;
    Ok(transaction.commit().await?)
}

/// The same in a transaction of the caller's, which is of no use any more after an error.
///
/// # Errors
/// As above.
pub async fn cancel_in(transaction: &mut PgConnection, id: &OrderId) -> Result<(), OrderError> {
    let cancelled = sqlx::query("update orders set status = 'cancelled' where id = $1 and status = 'pending'")
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    if cancelled.rows_affected() == 0 {
        return Err(refusal(transaction, id).await);
    }
    settle_stock(transaction, id, OrderStatus::Cancelled).await?;
    log(transaction, id, Some(OrderStatus::Pending), OrderStatus::Cancelled, "cancelled").await?;
    Ok(())
}

/// SKUs with their quantities, in the order in which everybody locks stock.
fn quantities(items: &[Item]) -> Result<BTreeMap<&str, i64>, OrderError> {
    if items.is_empty() {
        return Err(OrderError::NoItems);
    }
    let mut quantities = BTreeMap::new();
    for item in items {
        let bad = || OrderError::BadQuantity(item.sku.clone());
        if item.quantity < 1 {
            return Err(bad());
        }
        let sum: &mut i64 = quantities.entry(item.sku.as_str()).or_default();
        *sum = sum.checked_add(item.quantity).ok_or_else(bad)?;
    }
    Ok(quantities)
}

async fn insert_order(transaction: &mut PgConnection, new: &NewOrder) -> Result<Deadline, OrderError> {
    let timeout_us = i64::try_from(new.payment_timeout.as_micros()).map_err(|_| OrderError::BadTimeout)?;
    let deadline: Option<OffsetDateTime> = sqlx::query_scalar(
        "insert into orders (id, amount_minor, currency, payment_deadline)
         values ($1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond')
         on conflict do nothing
         returning payment_deadline",
    )
    .bind(new.id.as_str())
    .bind(new.amount_minor)
    .bind(&new.currency)
    .bind(timeout_us)
    .fetch_optional(transaction)
    .await?;
    deadline.map(Deadline::at).ok_or_else(|| OrderError::Exists(new.id.clone()))
}

/// Moves stock from available to reserved. The rows are locked in the order of their SKUs first, as the worker
/// does too, so that two who want the same SKUs cannot wait for each other.
async fn reserve(transaction: &mut PgConnection, quantities: &BTreeMap<&str, i64>) -> Result<(), OrderError> {
    let (skus, counts): (Vec<&str>, Vec<i64>) = quantities.iter().map(|(sku, count)| (*sku, *count)).unzip();
    let stock: Vec<(String, i64)> = sqlx::query_as(
        "select sku_id, available from inventory where sku_id = any($1) order by sku_id for no key update",
    )
    .bind(&skus)
    .fetch_all(&mut *transaction)
    .await?;
    let stock: BTreeMap<String, i64> = stock.into_iter().collect();
    for (&sku, &wanted) in quantities {
        match stock.get(sku) {
            None => return Err(OrderError::UnknownSku(sku.to_owned())),
            Some(&available) if available < wanted => {
                return Err(OrderError::NotEnoughStock { sku: sku.to_owned(), wanted, available });
            }
            Some(_) => {}
        }
    }
    sqlx::query(
        "update inventory i set available = i.available - q.quantity, reserved = i.reserved + q.quantity
         from unnest($1::text[], $2::bigint[]) as q (sku_id, quantity) where i.sku_id = q.sku_id",
    )
    .bind(&skus)
    .bind(&counts)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Takes an order's items out of the reserved stock: sold if it was paid, available again otherwise.
async fn settle_stock(transaction: &mut PgConnection, id: &OrderId, to: OrderStatus) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with stock as materialized (
             select i.sku_id, oi.quantity from order_items oi join inventory i on i.sku_id = oi.sku_id
             where oi.order_id = $1 order by i.sku_id for no key update of i
         )
         update inventory i set reserved = i.reserved - s.quantity,
             available = i.available + case when $2 then 0 else s.quantity end
         from stock s where i.sku_id = s.sku_id",
    )
    .bind(id.as_str())
    .bind(to == OrderStatus::Paid)
    .execute(transaction)
    .await?;
    Ok(())
}

pub(crate) async fn log(
    transaction: &mut PgConnection,
    id: &OrderId,
    from: Option<OrderStatus>,
    to: OrderStatus,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into order_log (order_id, from_status, to_status, reason, actor) values ($1, $2, $3, $4, 'order-service')",
    )
    .bind(id.as_str())
    .bind(from.map(OrderStatus::as_str))
    .bind(to.as_str())
    .bind(reason)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Why an order could not be paid or cancelled.
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
