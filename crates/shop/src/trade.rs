//! What an order service knows of its trades at gateways, so that the worker can judge a gateway's answers.

use order::OrderId;
use sqlx::{Connection, PgConnection};

use crate::OrderError;
use crate::error::refusal;

/// Says that the order is to be paid at a gateway, which is then asked before the order closes. Call it with the connection
/// of the transaction that creates the order. The gateway knows the trade by the order's ID.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn expect_payment(transaction: &mut PgConnection, order: &OrderId, gateway: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into payments (order_id, gateway, prepay) values ($1, $2, 'none')")
        .bind(order.as_str())
        .bind(gateway)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Call it before the gateway is told of the trade: from now on the trade may exist. Refused once the order is not
/// pending any more or past its deadline, since no payment may begin then.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Overdue`], [`OrderError::Unknown`]: do not call the gateway.
pub async fn begin_prepay(connection: &mut PgConnection, order: &OrderId) -> Result<(), OrderError> {
    let mut transaction = connection.begin().await?;
    // A close holds this lock, and looks for payments under it.
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

/// Call it when the gateway has confirmed that the trade exists. If the gateway denies it later, a person must look.
///
/// # Errors
/// Errors of the database.
pub async fn prepay_created(connection: &mut PgConnection, order: &OrderId) -> Result<(), sqlx::Error> {
    sqlx::query("update payments set prepay = 'created' where order_id = $1")
        .bind(order.as_str())
        .execute(connection)
        .await?;
    Ok(())
}
