use sqlx::PgConnection;

/// What has still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Backlog {
    /// Timeouts of orders.
    pub timeouts: i64,
    /// Events.
    pub events: i64,
    /// How many seconds the oldest row has waited.
    pub oldest_age_s: f64,
}

/// Counts the outbox.
///
/// # Errors
/// Errors of the database.
pub async fn backlog(connection: &mut PgConnection) -> Result<Backlog, sqlx::Error> {
    let (timeouts, events, oldest_age_s) = sqlx::query_as(
        "select count(*) filter (where event is null), coalesce(sum(events) filter (where event is not null), 0)::bigint,
                coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
         from outbox",
    )
    .fetch_one(connection)
    .await?;
    Ok(Backlog { timeouts, events, oldest_age_s })
}
