use order::{EventKind, OrderId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use trace::TraceParent;
use tracing::Span;

/// An order that the order service itself has marked as paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderPaid<'a> {
    /// The order.
    pub order: &'a OrderId,
    /// When it was paid.
    pub paid_at: OffsetDateTime,
    /// The payment's ID at its gateway.
    pub transaction_id: Option<&'a str>,
    /// What was paid, in the currency's smallest unit.
    pub amount_minor: i64,
    /// Three capital letters (ISO 4217).
    pub currency: &'a str,
    /// Who marked it as paid, such as `order-service`.
    pub actor: &'a str,
}

/// Announces the event `order.paid`. Call it with the connection of the transaction that marks the order as paid.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn announce_paid(transaction: &mut PgConnection, paid: &OrderPaid<'_>) -> Result<(), sqlx::Error> {
    let traceparent = trace::onward(&Span::current(), &[]);
    sqlx::query(
        "insert into outbox (order_id, due_at, traceparent, event, event_id, data)
         select e.* from overdue_event($1, $2, concat_ws(':', 'payment', $2::text, $3::text), $4, $5, $6, $7,
             fact_at => $4, transaction_id => $3, actor => $8) e",
    )
    .bind(EventKind::OrderPaid.as_str())
    .bind(paid.order.as_str())
    .bind(paid.transaction_id)
    .bind(paid.paid_at)
    .bind(traceparent.as_ref().map(TraceParent::as_str))
    .bind(paid.amount_minor)
    .bind(paid.currency)
    .bind(paid.actor)
    .execute(transaction)
    .await?;
    Ok(())
}
