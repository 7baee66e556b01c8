//! What an order service tells of its payments, so that the worker can judge what a gateway says.

use order::OrderId;
use sqlx::{PgConnection, PgPool};

use crate::OrderError;
use crate::orders::refusal;

/// Says that the order is to be paid at a gateway: it is asked before the order closes. Call it with the connection
/// of the transaction that creates the order. The gateway knows the trade by the order's ID.
///
/// # Errors
/// Whatever the database says; the transaction is then of no use any more.
pub async fn expect_payment(transaction: &mut PgConnection, order: &OrderId, gateway: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into payments (order_id, gateway, prepay) values ($1, $2, 'none')")
        .bind(order.as_str())
        .bind(gateway)
        .execute(transaction)
        .await?;
    Ok(())
}

/// To be called before the gateway is told of the trade: from now on it may exist. Refused once the order is not
/// pending any more or past its deadline, since nobody may begin to pay then.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Overdue`], [`OrderError::Unknown`]: do not call the gateway.
pub async fn begin_prepay(pool: &PgPool, order: &OrderId) -> Result<(), OrderError> {
    let mut transaction = pool.begin().await?;
    // Whoever closes the order holds its lock, and looks for payments under it.
    sqlx::query("select 1 from orders where id = $1 for no key update")
        .bind(order.as_str())
        .execute(&mut *transaction)
        .await?;
    let begun = sqlx::query(
        "update payments p
         set prepay = case when p.prepay = 'none' then 'attempted' else p.prepay end,
             created_at = case when p.prepay = 'none' then clock_timestamp() else p.created_at end,
             not_found_at = null
         from orders o
         where p.order_id = $1 and o.id = p.order_id and o.status = 'pending' and o.payment_deadline > clock_timestamp()",
    )
    .bind(order.as_str())
    .execute(&mut *transaction)
    .await?;
    if begun.rows_affected() == 1 {
        transaction.commit().await?;
        return Ok(());
    }
    Err(refusal(&mut transaction, order).await)
}

/// To be called when the gateway has confirmed that the trade exists: if it denies that later, a person must look.
///
/// # Errors
/// Whatever the database says.
pub async fn prepay_created(pool: &PgPool, order: &OrderId) -> Result<(), sqlx::Error> {
    sqlx::query("update payments set prepay = 'created' where order_id = $1")
        .bind(order.as_str())
        .execute(pool)
        .await?;
    Ok(())
}
