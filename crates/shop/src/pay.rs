use order::{OrderId, OrderStatus};
use outbox::{OrderPaid, announce_paid};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use crate::OrderError;
use crate::error::refusal;
use crate::log::{ACTOR, log};
use crate::stock::release;

/// Marks a pending order as paid and its stock as sold.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Overdue`] (after the deadline no payment is taken),
/// [`OrderError::Unknown`]; nothing is changed then.
pub async fn pay(connection: &mut PgConnection, id: &OrderId, transaction_id: Option<&str>) -> Result<(), OrderError> {
    let mut transaction = connection.begin().await?;
    pay_in(&mut transaction, id, transaction_id).await?;
    Ok(transaction.commit().await?)
}

/// Marks an order as paid in a transaction of the caller's, which cannot go on after an error.
///
/// # Errors
/// As [`pay`].
pub async fn pay_in(
    transaction: &mut PgConnection,
    id: &OrderId,
    transaction_id: Option<&str>,
) -> Result<(), OrderError> {
    let paid: Option<(OffsetDateTime, i64, String)> = sqlx::query_as(
        "update orders set status = 'paid', paid_at = clock_timestamp(), transaction_id = $2
         where id = $1 and status = 'pending' and payment_deadline > clock_timestamp()
         returning paid_at, amount_minor, currency",
    )
    .bind(id.as_str())
    .bind(transaction_id)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((paid_at, amount_minor, currency)) = paid else { return Err(refusal(transaction, id).await) };
    release(transaction, id, OrderStatus::Paid).await?;
    log(transaction, id, Some(OrderStatus::Pending), OrderStatus::Paid, "paid", None).await?;
    let event = OrderPaid { order: id, paid_at, transaction_id, amount_minor, currency: &currency, actor: ACTOR };
    announce_paid(transaction, &event).await?;
    Ok(())
}
