use order::{OrderId, OrderStatus};
use sqlx::{Connection, PgConnection};

use crate::OrderError;
use crate::error::refusal;
use crate::log::log;
use crate::stock::release;

/// Cancels a pending order and gives its stock back.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Unknown`]; nothing is changed then.
pub async fn cancel(connection: &mut PgConnection, id: &OrderId) -> Result<(), OrderError> {
    let mut transaction = connection.begin().await?;
    cancel_in(&mut transaction, id).await?;
    Ok(transaction.commit().await?)
}

/// Cancels an order in a transaction of the caller's, which cannot go on after an error.
///
/// # Errors
/// As [`cancel`].
pub async fn cancel_in(transaction: &mut PgConnection, id: &OrderId) -> Result<(), OrderError> {
    let cancelled = sqlx::query("update orders set status = 'cancelled' where id = $1 and status = 'pending'")
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    if cancelled.rows_affected() == 0 {
        return Err(refusal(transaction, id).await);
    }
    release(transaction, id, OrderStatus::Cancelled).await?;
    log(transaction, id, Some(OrderStatus::Pending), OrderStatus::Cancelled, "cancelled", None).await?;
    Ok(())
}
