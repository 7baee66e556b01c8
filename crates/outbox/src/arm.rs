use order::{Deadline, OrderId};
use sqlx::PgConnection;
use trace::TraceParent;
use tracing::Span;

/// Makes sure that the order will be looked at when its deadline passes.
///
/// Call it with the connection of the transaction that creates the order, or brings its deadline forward. The timeout
/// then exists exactly if the order does. It is sent after the commit, so the worker can never be faster than the commit.
/// The order may live in any table; only its ID and its deadline are taken.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn arm(transaction: &mut PgConnection, order: &OrderId, deadline: Deadline) -> Result<(), sqlx::Error> {
    let traceparent = trace::onward(&Span::current(), &[]);
    sqlx::query("insert into outbox (order_id, due_at, traceparent) values ($1, $2, $3)")
        .bind(order.as_str())
        .bind(deadline.instant())
        .bind(traceparent.as_ref().map(TraceParent::as_str))
        .execute(transaction)
        .await?;
    Ok(())
}
