use order::{Operator, OrderId, OrderStatus};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A row of an order's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// When, by the database's clock.
    pub at: OffsetDateTime,
    /// The status before; `None` at its creation.
    pub from_status: Option<String>,
    /// The status after.
    pub to_status: String,
    /// Why.
    pub reason: String,
    /// Which part of the program, or which service, did it.
    pub actor: String,
    /// The role in which a person had it done: `merchant`, `customer`, `support` and so on.
    pub operator_type: Option<String>,
    /// That person.
    pub operator: Option<String>,
}

/// The same as a row of a query: `at`, both statuses, `reason`, `actor`, `operator_type`, `operator`.
pub(crate) type LogTuple = (OffsetDateTime, Option<String>, String, String, String, Option<String>, Option<String>);

impl From<LogTuple> for LogRow {
    fn from((at, from_status, to_status, reason, actor, operator_type, operator): LogTuple) -> Self {
        Self { at, from_status, to_status, reason, actor, operator_type, operator }
    }
}

/// Who writes the log.
pub(crate) const ACTOR: &str = "order-service";

/// Writes a row.
pub(crate) async fn log(
    transaction: &mut PgConnection,
    id: &OrderId,
    from: Option<OrderStatus>,
    to: OrderStatus,
    reason: &str,
    operator: Option<&Operator>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into order_log (order_id, from_status, to_status, reason, actor, operator_type, operator)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.as_str())
    .bind(from.map(OrderStatus::as_str))
    .bind(to.as_str())
    .bind(reason)
    .bind(ACTOR)
    .bind(operator.map(|person| &person.kind))
    .bind(operator.map(|person| &person.name))
    .execute(transaction)
    .await?;
    Ok(())
}

/// All rows of an order, oldest first.
pub(crate) async fn rows(connection: &mut PgConnection, id: &OrderId) -> Result<Vec<LogRow>, sqlx::Error> {
    let rows: Vec<LogTuple> = sqlx::query_as(
        "select at, from_status, to_status, reason, actor, operator_type, operator
         from order_log where order_id = $1 order by id",
    )
    .bind(id.as_str())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(LogRow::from).collect())
}
