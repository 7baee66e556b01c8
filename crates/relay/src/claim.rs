//! Rows of the outbox: claimed for a while, deleted when they were sent, given back when they were not.
//!
//! A claim is a mark with an end and not a lock: no transaction may stay open while the broker is waited for.

use std::time::Duration;

use database::ServerTime;
use order::{Deadline, OrderId, TimeoutKind};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;
use trace::TraceParent;

/// A timeout that this relay has claimed.
pub(crate) struct ClaimedTimeout {
    pub(crate) row: i64,
    pub(crate) kind: TimeoutKind,
    pub(crate) order: OrderId,
    pub(crate) due: Deadline,
    pub(crate) traceparent: Option<TraceParent>,
}

/// An event that this relay has claimed.
pub(crate) struct ClaimedEvent {
    pub(crate) id: i64,
    pub(crate) order_id: String,
    pub(crate) due_at: OffsetDateTime,
    pub(crate) event: String,
    pub(crate) event_id: String,
    pub(crate) data: String,
    pub(crate) traceparent: Option<String>,
}

impl FromRow<'_, PgRow> for ClaimedEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            order_id: row.try_get("order_id")?,
            due_at: row.try_get("due_at")?,
            event: row.try_get("event")?,
            event_id: row.try_get("event_id")?,
            data: row.try_get("data")?,
            traceparent: row.try_get("traceparent")?,
        })
    }
}

/// A row as it is claimed, with the database's time.
struct TimeoutRow {
    id: i64,
    kind: String,
    order_id: String,
    due_at: OffsetDateTime,
    traceparent: Option<String>,
    now: OffsetDateTime,
}

impl FromRow<'_, PgRow> for TimeoutRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            order_id: row.try_get("order_id")?,
            due_at: row.try_get("due_at")?,
            traceparent: row.try_get("traceparent")?,
            now: row.try_get("now")?,
        })
    }
}

/// Claims the oldest timeouts. Returns how many rows there were, the timeouts in them, and the database's time.
pub(crate) async fn claim_timeouts(
    connection: &mut PgConnection,
    count_max: usize,
    lease: Duration,
) -> Result<(usize, Vec<ClaimedTimeout>, ServerTime), sqlx::Error> {
    // By ctid, which leads to the rows whatever the planner believes of an outbox that was empty a moment
    // ago: joined in as a subquery, the choice may be run anew for each row, limit and all.
    let rows: Vec<TimeoutRow> = sqlx::query_as(
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is null and (claimed_until is null or claimed_until < clock_timestamp())
             order by id limit $1 for update skip locked))
         returning o.id, o.kind, o.order_id, o.due_at, o.traceparent, clock_timestamp() as now",
    )
    .bind(i64::try_from(count_max).unwrap_or(i64::MAX))
    .bind(milliseconds(lease))
    .fetch_all(connection)
    .await?;
    // Without a row there is nothing to be sent, and the time is not needed.
    let now = ServerTime::from(rows.last().map_or(OffsetDateTime::UNIX_EPOCH, |row| row.now));
    Ok((rows.len(), rows.into_iter().filter_map(timeout).collect(), now))
}

fn timeout(row: TimeoutRow) -> Option<ClaimedTimeout> {
    let TimeoutRow { id, kind, order_id, due_at, traceparent, .. } = row;
    let parts = OrderId::new(&order_id).map_err(|error| error.to_string()).and_then(|order| {
        let kind: TimeoutKind = kind.parse().map_err(|error: order::UnknownKind| error.to_string())?;
        Ok((order, kind))
    });
    match parts {
        Ok((order, kind)) => {
            let traceparent = traceparent.and_then(|text| text.parse().ok());
            Some(ClaimedTimeout { row: id, kind, order, due: Deadline::at(due_at), traceparent })
        }
        // The table's CHECKs keep such a row out. Should they be gone: the others must not suffer.
        Err(error) => {
            tracing::error!(outbox_id = id, error, "a row of the outbox is no timeout; it stays");
            None
        }
    }
}

/// Claims the oldest events.
pub(crate) async fn claim_events(
    connection: &mut PgConnection,
    count_max: usize,
    lease: Duration,
) -> Result<Vec<ClaimedEvent>, sqlx::Error> {
    sqlx::query_as(
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is not null and (claimed_until is null or claimed_until < clock_timestamp())
             order by id limit $1 for update skip locked))
         returning o.id, o.order_id, o.due_at, o.event, o.event_id, o.data::text, o.traceparent",
    )
    .bind(i64::try_from(count_max).unwrap_or(i64::MAX))
    .bind(milliseconds(lease))
    .fetch_all(connection)
    .await
}

/// Deletes rows that were sent.
pub(crate) async fn delete(connection: &mut PgConnection, rows: &[i64]) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        sqlx::query("delete from outbox where id = any($1)").bind(rows).execute(connection).await?;
    }
    Ok(())
}

/// Gives claims back before the lease ends: to be taken again after a while, or at once.
pub(crate) async fn release(connection: &mut PgConnection, rows: &[i64], after: Duration) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        let statement =
            "update outbox set claimed_until = clock_timestamp() + $2 * interval '1 millisecond' where id = any($1)";
        sqlx::query(statement).bind(rows).bind(milliseconds(after)).execute(connection).await?;
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
