use order::OrderId;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;

use crate::log::rows;
use crate::{Item, LogRow, OrderError};

/// An order with its items and its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderView {
    /// Its ID.
    pub id: OrderId,
    /// Its status, as the table has it.
    pub status: String,
    /// In the smallest unit of the currency.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// When it falls due.
    pub payment_deadline: OffsetDateTime,
    /// Whether it is pending still although its deadline has passed: it is about to be closed, or to be found paid.
    pub overdue: bool,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was paid.
    pub paid_at: Option<OffsetDateTime>,
    /// When it was closed.
    pub closed_at: Option<OffsetDateTime>,
    /// The payment's ID at the gateway.
    pub transaction_id: Option<String>,
    /// Attempts to pay it at gateways, the oldest first.
    pub payments: Vec<PaymentView>,
    /// What is ordered.
    pub items: Vec<Item>,
    /// What happened to it, oldest first.
    pub log: Vec<LogRow>,
}

/// An attempt to pay an order at a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentView {
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// How far the shop got with telling the gateway: `none`, `attempted` or `created`.
    pub prepay: String,
    /// `open`, `paid` or `closed`.
    pub state: String,
    /// The gateway's own number of the payment, once it was paid.
    pub transaction_id: Option<String>,
    /// The state of its refund, if its money goes back: `requested`, `processing`, `succeeded` or `needs_person`.
    pub refund: Option<String>,
}

impl FromRow<'_, PgRow> for PaymentView {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            gateway: row.try_get("gateway")?,
            trade_no: row.try_get("trade_no")?,
            prepay: row.try_get("prepay")?,
            state: row.try_get("state")?,
            transaction_id: row.try_get("transaction_id")?,
            refund: row.try_get("refund")?,
        })
    }
}

struct OrderRow {
    status: String,
    amount_minor: i64,
    currency: String,
    payment_deadline: OffsetDateTime,
    overdue: bool,
    created_at: OffsetDateTime,
    paid_at: Option<OffsetDateTime>,
    closed_at: Option<OffsetDateTime>,
    transaction_id: Option<String>,
}

impl FromRow<'_, PgRow> for OrderRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            status: row.try_get("status")?,
            amount_minor: row.try_get("amount_minor")?,
            currency: row.try_get("currency")?,
            payment_deadline: row.try_get("payment_deadline")?,
            overdue: row.try_get("overdue")?,
            created_at: row.try_get("created_at")?,
            paid_at: row.try_get("paid_at")?,
            closed_at: row.try_get("closed_at")?,
            transaction_id: row.try_get("transaction_id")?,
        })
    }
}

/// Looks an order up.
///
/// # Errors
/// [`OrderError::Unknown`], [`OrderError::Database`].
pub async fn show(connection: &mut PgConnection, id: &OrderId) -> Result<OrderView, OrderError> {
    // Times of infinity, which a shop's own table may hold, are cut: no clock on this side can hold them.
    let row: Option<OrderRow> = sqlx::query_as(
        "select status, amount_minor, currency,
                greatest(least(payment_deadline, '9000-01-01Z'), '2000-01-01Z') as payment_deadline,
                status = 'pending' and payment_deadline <= clock_timestamp() as overdue,
                created_at, paid_at, closed_at, transaction_id
         from orders where id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    let row = row.ok_or_else(|| OrderError::Unknown(id.clone()))?;
    Ok(OrderView {
        id: id.clone(),
        status: row.status,
        amount_minor: row.amount_minor,
        currency: row.currency,
        payment_deadline: row.payment_deadline,
        overdue: row.overdue,
        created_at: row.created_at,
        paid_at: row.paid_at,
        closed_at: row.closed_at,
        transaction_id: row.transaction_id,
        payments: payments(connection, id).await?,
        items: items(connection, id).await?,
        log: rows(connection, id).await?,
    })
}

async fn items(connection: &mut PgConnection, id: &OrderId) -> Result<Vec<Item>, sqlx::Error> {
    let items: Vec<(String, i64)> =
        sqlx::query_as("select sku_id, quantity from order_items where order_id = $1 order by sku_id")
            .bind(id.as_str())
            .fetch_all(connection)
            .await?;
    Ok(items.into_iter().map(|(sku, quantity)| Item { sku, quantity }).collect())
}

async fn payments(connection: &mut PgConnection, id: &OrderId) -> Result<Vec<PaymentView>, sqlx::Error> {
    sqlx::query_as(
        "select gateway, trade_no, prepay, state, transaction_id,
                (select r.state from refunds r
                 where r.order_id = p.order_id and r.gateway = p.gateway and r.trade_no = p.trade_no
                 order by r.created_at limit 1) as refund
         from payments p where order_id = $1 and gateway <> 'none' order by created_at, gateway, trade_no",
    )
    .bind(id.as_str())
    .fetch_all(connection)
    .await
}
