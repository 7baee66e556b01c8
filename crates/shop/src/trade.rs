//! What an order service knows of its trades at gateways, so that the worker can judge a gateway's answers. An order may have
//! several: a customer who comes back may begin another, at the same gateway or at another.

use order::OrderId;
use sqlx::PgConnection;

use crate::OrderError;
use crate::error::refusal;

/// Says that the order is to be paid at a gateway, which is then asked before the order closes. Call it with the connection
/// of the transaction that creates the order. The gateway knows the trade by the order's ID.
///
/// # Errors
/// [`OrderError::NothingToPay`], [`OrderError::BadTradeNo`], [`OrderError::NotPending`], and errors of the database. The
/// transaction cannot go on after one.
pub async fn expect_payment(transaction: &mut PgConnection, order: &OrderId, gateway: &str) -> Result<(), OrderError> {
    let inserted = sqlx::query("insert into payments (order_id, gateway, prepay) values ($1, $2, 'none')")
        .bind(order.as_str())
        .bind(gateway)
        .execute(&mut *transaction)
        .await;
    inserted.map(drop).map_err(of_payment)
}

/// Call it before the gateway is told of a trade: from now on the trade may exist. It may be the first of the order, or one
/// more. Refused once the order is not pending any more or past its deadline, since no payment may begin then. `trade_no` is the
/// trade's number at the gateway; `None`: the order's ID.
///
/// # Errors
/// [`OrderError::NotPending`], [`OrderError::Overdue`], [`OrderError::Unknown`], [`OrderError::NothingToPay`],
/// [`OrderError::BadTradeNo`]: do not call the gateway.
pub async fn begin_prepay(
    connection: &mut PgConnection,
    order: &OrderId,
    gateway: &str,
    trade_no: Option<&str>,
) -> Result<(), OrderError> {
    let begun = sqlx::query("select overdue_begin_payment($1, $2, $3)")
        .bind(order.as_str())
        .bind(gateway)
        .bind(trade_no)
        .execute(&mut *connection)
        .await;
    match begun {
        Ok(_) => Ok(()),
        Err(error) if is(&error, ENDED) => Err(refusal(connection, order).await),
        Err(error) => Err(of_payment(error)),
    }
}

/// Call it when the gateway has confirmed that the trade exists. If the gateway denies it later, a person must look.
///
/// # Errors
/// Errors of the database.
pub async fn prepay_created(
    connection: &mut PgConnection,
    order: &OrderId,
    gateway: &str,
    trade_no: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update payments set prepay = 'created' where order_id = $1 and gateway = $2 and trade_no = coalesce($3, order_id)",
    )
    .bind(order.as_str())
    .bind(gateway)
    .bind(trade_no)
    .execute(connection)
    .await?;
    Ok(())
}

/// The codes with which the database refuses a payment: `migrations/0010_attempts.sql` raises them.
const ENDED: &str = "OV001";
const NOTHING_TO_PAY: &str = "OV002";
const BAD_TRADE_NO: &str = "OV003";

fn is(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}

/// What the database means by refusing a payment.
fn of_payment(error: sqlx::Error) -> OrderError {
    match error.as_database_error() {
        Some(_) if is(&error, NOTHING_TO_PAY) => OrderError::NothingToPay,
        Some(refusal) if is(&error, BAD_TRADE_NO) => OrderError::BadTradeNo(refusal.message().to_owned()),
        _ => OrderError::Database(error),
    }
}
