//! Moving the deadline of an order that is pending.

use order::{Deadline, Operator, OrderId, OrderStatus};
use outbox::arm;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::OrderError;
use crate::create::PAYMENT_TIMEOUT_MAX;
use crate::error::refusal;
use crate::log::log;

/// Gives the customer more time, in a transaction of the caller's. The message that comes at the old deadline waits on for
/// the new one.
///
/// # Errors
/// [`OrderError::NotLater`], [`OrderError::BadTimeout`] (ten years at most), [`OrderError::NotPending`],
/// [`OrderError::Overdue`] (it is about to be closed), [`OrderError::Unknown`]; nothing is changed then.
pub async fn extend_in(
    transaction: &mut PgConnection,
    id: &OrderId,
    to: Deadline,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<Deadline, OrderError> {
    let (deadline, now) = lock_pending(transaction, id).await?;
    if deadline.is_past(now) {
        return Err(OrderError::Overdue { id: id.clone(), deadline });
    }
    if to <= deadline {
        return Err(OrderError::NotLater { id: id.clone(), deadline });
    }
    if to.remaining(now) > PAYMENT_TIMEOUT_MAX {
        return Err(OrderError::BadTimeout);
    }
    move_deadline(transaction, id, to, &format!("extended from {deadline} to {to}: {reason}"), operator).await?;
    Ok(to)
}

/// As [`extend_in`], in a transaction of its own.
///
/// # Errors
/// Those of [`extend_in`].
pub async fn extend(
    connection: &mut PgConnection,
    id: &OrderId,
    to: Deadline,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<Deadline, OrderError> {
    let mut transaction = connection.begin().await?;
    let deadline = extend_in(&mut transaction, id, to, reason, operator).await?;
    transaction.commit().await?;
    Ok(deadline)
}

/// As [`make_due_in`], in a transaction of its own.
///
/// # Errors
/// Those of [`make_due_in`].
pub async fn make_due(
    connection: &mut PgConnection,
    id: &OrderId,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<(), OrderError> {
    let mut transaction = connection.begin().await?;
    make_due_in(&mut transaction, id, reason, operator).await?;
    transaction.commit().await?;
    Ok(())
}

/// Makes an order due at once, in a transaction of the caller's. A message for it goes out. It closes on the same path and
/// with the same care as at its deadline.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Unknown`]; nothing is changed then.
pub async fn make_due_in(
    transaction: &mut PgConnection,
    id: &OrderId,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<(), OrderError> {
    let (deadline, now) = lock_pending(transaction, id).await?;
    let due = if deadline.is_past(now) { deadline } else { Deadline::at(now) };
    move_deadline(transaction, id, due, &format!("to be closed at once (was due {deadline}): {reason}"), operator)
        .await?;
    arm(transaction, id, due).await?;
    Ok(())
}

/// Locks a pending order; its deadline, and the database's time.
async fn lock_pending(transaction: &mut PgConnection, id: &OrderId) -> Result<(Deadline, OffsetDateTime), OrderError> {
    let row: Option<(OffsetDateTime, OffsetDateTime)> = sqlx::query_as(
        "select greatest(least(payment_deadline, '9000-01-01Z'), '2000-01-01Z'), clock_timestamp()
         from orders where id = $1 and status = 'pending' for no key update",
    )
    .bind(id.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    match row {
        Some((deadline, now)) => Ok((Deadline::at(deadline), now)),
        None => Err(refusal(transaction, id).await),
    }
}

async fn move_deadline(
    transaction: &mut PgConnection,
    id: &OrderId,
    to: Deadline,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<(), sqlx::Error> {
    // The trigger on `orders` need not write it down and arm it, too.
    sqlx::query("select set_config('overdue.writes_log', 'on', true)").execute(&mut *transaction).await?;
    sqlx::query("update orders set payment_deadline = $2 where id = $1")
        .bind(id.as_str())
        .bind(to.instant())
        .execute(&mut *transaction)
        .await?;
    let pending = OrderStatus::Pending;
    log(transaction, id, Some(pending), pending, reason, operator).await
}
