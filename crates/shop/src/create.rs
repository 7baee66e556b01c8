use std::time::Duration;

use order::{Deadline, OrderId, OrderStatus, is_currency};
use outbox::arm;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use crate::stock::{quantities, reserve};
use crate::trade::expect_payment;
use crate::{Item, OrderError};

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

/// An order as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its ID.
    pub id: OrderId,
    /// Its status.
    pub status: OrderStatus,
    /// When it falls due.
    pub deadline: Deadline,
}

/// Ten years.
pub(crate) const PAYMENT_TIMEOUT_MAX: Duration = Duration::from_hours(24 * 3653);

/// Creates an order: the order, its items, the stock that it reserves, a log row and the outbox row of its
/// timeout, in one transaction.
///
/// # Errors
/// [`OrderError`]; nothing is changed then.
pub async fn create(connection: &mut PgConnection, new: &NewOrder) -> Result<Order, OrderError> {
    let mut transaction = connection.begin().await?;
    let order = create_in(&mut transaction, new).await?;
    transaction.commit().await?;
    Ok(order)
}

/// Creates an order in a transaction of the caller's, which cannot go on after an error.
///
/// # Errors
/// [`OrderError`].
pub async fn create_in(transaction: &mut PgConnection, new: &NewOrder) -> Result<Order, OrderError> {
    let quantities = quantities(&new.items)?;
    if new.amount_minor < 0 || !is_currency(&new.currency) {
        return Err(OrderError::BadAmount);
    }
    // Nothing can be paid at a gateway that takes no payments of nothing, so its word would never come.
    if new.amount_minor == 0 && new.gateway.as_deref().is_some_and(|gateway| gateway != "none") {
        return Err(OrderError::NothingToPay);
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
    crate::log::log(transaction, &new.id, None, OrderStatus::Pending, "created", None).await?;
    if let Some(gateway) = &new.gateway {
        expect_payment(transaction, &new.id, gateway).await?;
    }
    arm(transaction, &new.id, deadline).await?;
    Ok(Order { id: new.id.clone(), status: OrderStatus::Pending, deadline })
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
