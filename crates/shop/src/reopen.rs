//! Opening an order again that was closed.

use std::collections::BTreeMap;
use std::time::Duration;

use order::{Deadline, Operator, OrderId, OrderStatus};
use outbox::arm;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use crate::create::PAYMENT_TIMEOUT_MAX;
use crate::error::refusal;
use crate::log::log;
use crate::stock::reserve;
use crate::{Order, OrderError};

/// Opens a closed order again, to be paid within `payment_timeout` from now: reserves its stock anew, writes it down and arms
/// it. It closes again like any other order.
///
/// # Errors
/// [`OrderError::NotClosed`], [`OrderError::TradeGone`] (its trade at a gateway can never be paid again),
/// [`OrderError::NotEnoughStock`], [`OrderError::UnknownSku`], [`OrderError::BadTimeout`], [`OrderError::Unknown`]; nothing is
/// changed then.
pub async fn reopen(
    connection: &mut PgConnection,
    id: &OrderId,
    payment_timeout: Duration,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<Order, OrderError> {
    if payment_timeout < Duration::from_millis(1) || payment_timeout > PAYMENT_TIMEOUT_MAX {
        return Err(OrderError::BadTimeout);
    }
    let mut transaction = connection.begin().await?;
    // The trigger on `orders` need not write it down and arm it, too.
    sqlx::query("select set_config('overdue.writes_log', 'on', true)").execute(&mut *transaction).await?;
    let deadline = set_pending(&mut transaction, id, payment_timeout).await?;
    refuse_trade(&mut transaction, id).await?;
    let quantities: Vec<(String, i64)> = sqlx::query_as(
        "select sku_id, sum(quantity)::bigint from order_items where order_id = $1 and quantity > 0 group by sku_id",
    )
    .bind(id.as_str())
    .fetch_all(&mut *transaction)
    .await?;
    let quantities: BTreeMap<&str, i64> = quantities.iter().map(|(sku, count)| (sku.as_str(), *count)).collect();
    reserve(&mut transaction, &quantities).await?;
    let reason = format!("opened again, to be paid by {deadline}: {reason}");
    log(&mut transaction, id, Some(OrderStatus::Closed), OrderStatus::Pending, &reason, operator).await?;
    arm(&mut transaction, id, deadline).await?;
    transaction.commit().await?;
    Ok(Order { id: id.clone(), status: OrderStatus::Pending, deadline })
}

async fn set_pending(
    transaction: &mut PgConnection,
    id: &OrderId,
    payment_timeout: Duration,
) -> Result<Deadline, OrderError> {
    let timeout_us = i64::try_from(payment_timeout.as_micros()).map_err(|_| OrderError::BadTimeout)?;
    let deadline: Option<OffsetDateTime> = sqlx::query_scalar(
        "update orders
         set status = 'pending', closed_at = null, payment_deadline = clock_timestamp() + $2 * interval '1 microsecond'
         where id = $1 and status = 'closed'
         returning payment_deadline",
    )
    .bind(id.as_str())
    .bind(timeout_us)
    .fetch_optional(&mut *transaction)
    .await?;
    match deadline {
        Some(deadline) => Ok(Deadline::at(deadline)),
        None => Err(match refusal(transaction, id).await {
            OrderError::Overdue { id, .. } => OrderError::NotClosed { id, status: OrderStatus::Pending },
            OrderError::NotPending { id, status } => OrderError::NotClosed { id, status },
            other => other,
        }),
    }
}

/// A trade that was closed at its gateway stays so, and one that is to be looked for may still be paid.
async fn refuse_trade(transaction: &mut PgConnection, id: &OrderId) -> Result<(), OrderError> {
    let gateway: Option<String> = sqlx::query_scalar(
        "select gateway from payments where order_id = $1 and gateway <> 'none' and (prepay <> 'none' or state <> 'open') limit 1",
    )
    .bind(id.as_str())
    .fetch_optional(transaction)
    .await?;
    gateway.map_or(Ok(()), |gateway| Err(OrderError::TradeGone { id: id.clone(), gateway }))
}
