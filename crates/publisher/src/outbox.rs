use sqlx::PgPool;

/// What has still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Backlog {
    /// Timeouts of orders.
    pub timeouts: i64,
    /// Events.
    pub events: i64,
    /// For how many seconds the oldest of both has waited.
    pub oldest_age_s: f64,
}

/// How much there is in the outbox.
///
/// # Errors
/// Whatever the database says.
pub async fn backlog(pool: &PgPool) -> Result<Backlog, sqlx::Error> {
    let (timeouts, events, oldest_age_s) = sqlx::query_as(
        "select count(*) filter (where event is null), count(*) filter (where event is not null),
                coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
         from outbox",
    )
    .fetch_one(pool)
    .await?;
    Ok(Backlog { timeouts, events, oldest_age_s })
}

/// How many orders are pending although their deadline passed a minute ago or more: messages and sweep have missed them,
/// or cannot settle them. Without those that the table of payments has at a gateway, which may have to be waited for; the
/// sweep counts them as stuck.
///
/// # Errors
/// Whatever the database says.
pub async fn past_deadline(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from orders o
         where status = 'pending' and payment_deadline < statement_timestamp() - interval '1 minute'
           and not exists (select 1 from payments p where p.order_id = o.id and p.gateway <> 'none')",
    )
    .fetch_one(pool)
    .await
}
