//! Orders by a part of their ID, and those that are past their deadline.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;

/// An order in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderLine {
    /// Its ID, whatever the table has.
    pub id: String,
    /// Its status.
    pub status: String,
    /// When it falls due.
    pub payment_deadline: OffsetDateTime,
    /// In the smallest unit of the currency.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
}

impl FromRow<'_, PgRow> for OrderLine {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            status: row.try_get("status")?,
            payment_deadline: row.try_get("payment_deadline")?,
            amount_minor: row.try_get("amount_minor")?,
            currency: row.try_get("currency")?,
        })
    }
}

/// Times of infinity, which a shop's own table may hold, are cut.
const LINE: &str =
    "select id, status, greatest(least(payment_deadline, '9000-01-01Z'), '2000-01-01Z') as payment_deadline,
    amount_minor, currency from orders";

/// Orders whose ID begins like this, in the order of their IDs.
///
/// # Errors
/// Errors of the database.
pub async fn orders_like(
    connection: &mut PgConnection,
    prefix: &str,
    count_max: i64,
) -> Result<Vec<OrderLine>, sqlx::Error> {
    // The key of `orders` sorts by byte, and no character is greater than the last of Unicode.
    let statement =
        format!("{LINE} where orders.id >= $1 and orders.id < $1 || chr(1114111) order by orders.id limit $2");
    sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(prefix).bind(count_max).fetch_all(connection).await
}

/// Orders that are pending although their deadline has passed, the oldest first.
///
/// # Errors
/// Errors of the database.
pub async fn overdue_orders(connection: &mut PgConnection, count_max: i64) -> Result<Vec<OrderLine>, sqlx::Error> {
    let statement = format!(
        "{LINE} where status = 'pending' and orders.payment_deadline <= statement_timestamp() order by orders.payment_deadline limit $1"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(count_max).fetch_all(connection).await
}
