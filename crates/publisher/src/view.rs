//! Orders to be looked at: how they stand, and what happened to them.

use order::{Deadline, OrderId};
use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::orders::{Item, OrderError};

/// An order with its items and its history.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OrderView {
    /// Its ID.
    pub id: String,
    /// Where it stands.
    pub status: String,
    /// In the smallest unit of the currency.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// When it falls due.
    pub payment_deadline: String,
    /// Whether it is pending still although its deadline has passed: it is about to be closed, or to be found paid.
    pub overdue: bool,
    /// When it was created.
    pub created_at: String,
    /// When it was paid.
    pub paid_at: Option<String>,
    /// When it was closed.
    pub closed_at: Option<String>,
    /// The payment's ID at the gateway.
    pub transaction_id: Option<String>,
    /// How its payment at a gateway stands, where it has one.
    pub payment: Option<PaymentView>,
    /// What is ordered.
    pub items: Vec<Item>,
    /// What happened to it, oldest first.
    pub log: Vec<LogEntry>,
}

/// An order's payment at a gateway.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PaymentView {
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// How far the shop got with telling the gateway: `none`, `attempted` or `created`.
    pub prepay: String,
    /// `open`, `paid` or `closed`.
    pub state: String,
    /// How its refund stands, if its money came too late: `requested`, `processing`, `succeeded` or `needs_person`.
    pub refund: Option<String>,
}

/// One row of an order's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogEntry {
    /// When, by the database's clock.
    pub at: String,
    /// Where it stood; `None` at its creation.
    pub from: Option<String>,
    /// Where it stood afterwards.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Which part of the program, or which service, did it.
    pub actor: String,
    /// As what the person acted that had it done, if one had: `merchant`, `customer`, `support` and so on.
    pub operator_type: Option<String>,
    /// Who that was.
    pub operator: Option<String>,
}

/// Something that happened to an order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TimelineEntry {
    /// When, by the database's clock.
    pub at: String,
    /// What: `created`, `deadline moved`, `paid`, `cancelled`, `closed`, `refund recorded`, `refund succeeded`,
    /// `trade not found`.
    pub what: String,
    /// Why, or more of it.
    pub detail: String,
    /// Who did it: a part of the program, a service, or a gateway.
    pub actor: String,
    /// The person who had it done, if one had: `merchant alice`.
    pub operator: Option<String>,
}

#[derive(sqlx::FromRow)]
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

#[derive(sqlx::FromRow)]
struct LogRow {
    at: OffsetDateTime,
    from_status: Option<String>,
    to_status: String,
    reason: String,
    actor: String,
    operator_type: Option<String>,
    operator: Option<String>,
}

/// Looks an order up.
///
/// # Errors
/// [`OrderError::Unknown`], [`OrderError::Database`].
pub async fn show(pool: &PgPool, id: &OrderId) -> Result<OrderView, OrderError> {
    // Times of infinity, which a shop's own table may hold, are cut: no clock on this side can hold them.
    let row: Option<OrderRow> = sqlx::query_as(
        "select status, amount_minor, currency,
                greatest(least(payment_deadline, '9000-01-01Z'), '2000-01-01Z') as payment_deadline,
                status = 'pending' and payment_deadline <= clock_timestamp() as overdue,
                created_at, paid_at, closed_at, transaction_id
         from orders where id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(pool)
    .await?;
    let row = row.ok_or_else(|| OrderError::Unknown(id.clone()))?;
    let items: Vec<(String, i64)> =
        sqlx::query_as("select sku_id, quantity from order_items where order_id = $1 order by sku_id")
            .bind(id.as_str())
            .fetch_all(pool)
            .await?;
    Ok(OrderView {
        id: id.to_string(),
        status: row.status,
        amount_minor: row.amount_minor,
        currency: row.currency,
        payment_deadline: text(row.payment_deadline),
        overdue: row.overdue,
        created_at: text(row.created_at),
        paid_at: row.paid_at.map(text),
        closed_at: row.closed_at.map(text),
        transaction_id: row.transaction_id,
        payment: payment(pool, id).await?,
        items: items.into_iter().map(|(sku, quantity)| Item { sku, quantity }).collect(),
        log: log(pool, id).await?.into_iter().map(entry).collect(),
    })
}

/// All that is on record of an order, oldest first: its log, and what its gateway said.
///
/// # Errors
/// [`OrderError::Unknown`] if nothing is and there is no such order, [`OrderError::Database`].
pub async fn timeline(pool: &PgPool, id: &OrderId) -> Result<Vec<TimelineEntry>, OrderError> {
    let mut entries: Vec<(OffsetDateTime, TimelineEntry)> = Vec::new();
    for row in log(pool, id).await? {
        let what = match (row.from_status.as_deref(), row.to_status.as_str()) {
            (None, _) => "created",
            (Some("pending"), "pending") => "deadline moved",
            (Some(_), status) => status,
        };
        let operator = row.operator.map(|name| [row.operator_type.unwrap_or_default(), name].join(" "));
        let entry =
            TimelineEntry { at: text(row.at), what: what.to_owned(), detail: row.reason, actor: row.actor, operator };
        entries.push((row.at, entry));
    }
    let mut add = |at: OffsetDateTime, what: &str, detail: String, actor: &str| {
        let (what, actor) = (what.to_owned(), actor.to_owned());
        entries.push((at, TimelineEntry { at: text(at), what, detail, actor, operator: None }));
    };
    let missed: Option<(OffsetDateTime, String)> =
        sqlx::query_as("select not_found_at, gateway from payments where order_id = $1 and not_found_at is not null")
            .bind(id.as_str())
            .fetch_optional(pool)
            .await?;
    if let Some((at, gateway)) = missed {
        add(at, "trade not found", "the gateway knew no trade of this order".to_owned(), &gateway);
    }
    let refunds: Vec<(String, String, String, OffsetDateTime, Option<OffsetDateTime>)> = sqlx::query_as(
        "select refund_no, gateway, reason, created_at, succeeded_at from refunds where order_id = $1 order by created_at",
    )
    .bind(id.as_str())
    .fetch_all(pool)
    .await?;
    for (refund_no, gateway, reason, created_at, succeeded_at) in refunds {
        add(created_at, "refund recorded", format!("{refund_no}: {reason}"), &gateway);
        if let Some(at) = succeeded_at {
            add(at, "refund succeeded", refund_no, &gateway);
        }
    }
    if entries.is_empty() {
        // The shop's own code may have made it and told the log nothing.
        show(pool, id).await?;
    }
    // Stable: what was written at the same moment stays in the order of the log.
    entries.sort_by_key(|(at, _)| *at);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

async fn log(pool: &PgPool, id: &OrderId) -> Result<Vec<LogRow>, sqlx::Error> {
    sqlx::query_as(
        "select at, from_status, to_status, reason, actor, operator_type, operator
         from order_log where order_id = $1 order by id",
    )
    .bind(id.as_str())
    .fetch_all(pool)
    .await
}

fn entry(row: LogRow) -> LogEntry {
    LogEntry {
        at: text(row.at),
        from: row.from_status,
        to: row.to_status,
        reason: row.reason,
        actor: row.actor,
        operator_type: row.operator_type,
        operator: row.operator,
    }
}

async fn payment(pool: &PgPool, id: &OrderId) -> Result<Option<PaymentView>, sqlx::Error> {
    let row: Option<(String, String, String, String, Option<String>)> = sqlx::query_as(
        "select gateway, coalesce(trade_no, order_id), prepay, state,
                (select r.state from refunds r where r.order_id = p.order_id order by r.created_at limit 1)
         from payments p where order_id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(gateway, trade_no, prepay, state, refund)| PaymentView { gateway, trade_no, prepay, state, refund }))
}

fn text(at: OffsetDateTime) -> String {
    Deadline::at(at).to_string()
}
