//! Rows of the outbox: claimed for a while, deleted when they were sent, given back when they were not.
//!
//! A claim is a mark with an end and not a lock: no transaction may stay open while the broker is waited for.

use std::time::Duration;

use database::ServerTime;
use order::{BadTimeoutId, Deadline, ParkReason, TimeoutId, TimeoutKind};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;
use trace::TraceParent;

/// A timeout that this relay has claimed.
pub(crate) struct ClaimedTimeout {
    pub(crate) row: i64,
    pub(crate) kind: TimeoutKind,
    pub(crate) id: TimeoutId,
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
    /// Of how many events.
    pub(crate) events: usize,
    pub(crate) data: String,
    pub(crate) traceparent: Option<String>,
    /// How long it has waited.
    pub(crate) age: Duration,
}

impl FromRow<'_, PgRow> for ClaimedEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            order_id: row.try_get("order_id")?,
            due_at: row.try_get("due_at")?,
            event: row.try_get("event")?,
            event_id: row.try_get("event_id")?,
            events: usize::try_from(row.try_get::<i32, _>("events")?).unwrap_or(1),
            data: row.try_get("data")?,
            traceparent: row.try_get("traceparent")?,
            age: Duration::try_from_secs_f64(row.try_get("age_s")?).unwrap_or_default(),
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

/// A row of the outbox that cannot be sent, and why.
pub(crate) struct Unsendable {
    pub(crate) row: i64,
    pub(crate) reason: ParkReason,
    pub(crate) detail: String,
}

/// Claimed timeouts, and rows that are none.
pub(crate) struct Claimed {
    /// How many rows there were.
    pub(crate) count: usize,
    /// The largest of their numbers.
    pub(crate) last: Option<i64>,
    pub(crate) timeouts: Vec<ClaimedTimeout>,
    pub(crate) unsendable: Vec<Unsendable>,
    /// The database's time.
    pub(crate) now: ServerTime,
}

/// How many bytes of data a row may have: an event must fit into a message, and others wait behind it.
const EVENT_BYTES_MAX: i64 = 1024 * 1024;

/// Claims the oldest timeouts among the rows with a number above this.
pub(crate) async fn claim_timeouts(
    connection: &mut PgConnection,
    above: i64,
    count_max: usize,
    lease: Duration,
) -> Result<Claimed, sqlx::Error> {
    // By ctid, which leads to the rows whatever the planner believes of an outbox that was empty a moment
    // ago: joined in as a subquery, the choice may be run anew for each row, limit and all.
    let rows: Vec<TimeoutRow> = sqlx::query_as(
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is null and id > $3 and (claimed_until is null or claimed_until < clock_timestamp())
             order by id limit $1 for update skip locked))
         returning o.id, o.kind, left(o.order_id, 200) as order_id,
             greatest(least(o.due_at, '9000-01-01Z'), '2000-01-01Z') as due_at, o.traceparent, clock_timestamp() as now",
    )
    .bind(i64::try_from(count_max).unwrap_or(i64::MAX))
    .bind(milliseconds(lease))
    .bind(above)
    .fetch_all(connection)
    .await?;
    // Without a row there is nothing to be sent, and the time is not needed.
    let now = ServerTime::from(rows.last().map_or(OffsetDateTime::UNIX_EPOCH, |row| row.now));
    let last = rows.iter().map(|row| row.id).max();
    let mut claimed =
        Claimed { count: rows.len(), last, timeouts: Vec::with_capacity(rows.len()), unsendable: Vec::new(), now };
    for row in rows {
        match timeout(row) {
            Ok(timeout) => claimed.timeouts.push(timeout),
            Err(row) => claimed.unsendable.push(row),
        }
    }
    Ok(claimed)
}

/// A row may have been written by anybody, in whatever form: a checkout does not fail for it.
fn timeout(row: TimeoutRow) -> Result<ClaimedTimeout, Unsendable> {
    let TimeoutRow { id: row, kind, order_id, due_at, traceparent, .. } = row;
    let unsendable = |reason, detail: String| Unsendable { row, reason, detail };
    let kind: TimeoutKind =
        kind.parse().map_err(|error: order::UnknownKind| unsendable(ParkReason::UnknownKind, error.to_string()))?;
    let illegal = |error: BadTimeoutId| match error {
        BadTimeoutId::Order(error) => unsendable(ParkReason::IllegalOrderId, error.to_string()),
        BadTimeoutId::Timer(error) => unsendable(ParkReason::IllegalTimerId, error.to_string()),
    };
    let id = TimeoutId::parse(kind, &order_id).map_err(illegal)?;
    let traceparent = traceparent.and_then(|text| text.parse().ok());
    Ok(ClaimedTimeout { row, kind, id, due: Deadline::at(due_at), traceparent })
}

/// Moves rows that cannot be sent to the messages that wait for a person.
pub(crate) async fn park(connection: &mut PgConnection, rows: &[Unsendable]) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = rows.iter().map(|row| row.row).collect();
    let reasons: Vec<&str> = rows.iter().map(|row| row.reason.code()).collect();
    let details: Vec<&str> = rows.iter().map(|row| row.detail.as_str()).collect();
    sqlx::query(include_str!("park.sql")).bind(ids).bind(reasons).bind(details).execute(connection).await?;
    Ok(())
}

/// Events that have too much data to be sent. They would hold up all others.
pub(crate) async fn oversized_events(connection: &mut PgConnection) -> Result<Vec<Unsendable>, sqlx::Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "select id, octet_length(data::text)::bigint from outbox
         where event is not null and pg_column_size(data) > 8192 and octet_length(data::text) > $1 order by id limit 16",
    )
    .bind(EVENT_BYTES_MAX)
    .fetch_all(connection)
    .await?;
    let unsendable = |(row, bytes): (i64, i64)| Unsendable {
        row,
        reason: ParkReason::EventTooLarge,
        detail: format!("the event has {bytes} bytes of data, at most {EVENT_BYTES_MAX} are sent"),
    };
    Ok(rows.into_iter().map(unsendable).collect())
}

/// Claims the oldest events among the rows with a number above this: so many rows that they have `events_max` events,
/// or a few more.
pub(crate) async fn claim_events(
    connection: &mut PgConnection,
    above: i64,
    events_max: usize,
    lease: Duration,
) -> Result<Vec<ClaimedEvent>, sqlx::Error> {
    sqlx::query_as(
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is not null and id > $4 and (claimed_until is null or claimed_until < clock_timestamp())
               and (pg_column_size(data) <= 8192 or octet_length(data::text) <= $3)
               and id <= (
                   select max(id) from (
                       select id, sum(events) over (order by id rows unbounded preceding) - events as before
                       from (select id, greatest(events, 1) as events from outbox
                             where event is not null and id > $4
                               and (claimed_until is null or claimed_until < clock_timestamp())
                             order by id limit $1) first
                   ) counted
                   where before < $1)
             order by id limit $1 for update skip locked))
         returning o.id, left(o.order_id, 200) as order_id,
             greatest(least(o.due_at, '9000-01-01Z'), '2000-01-01Z') as due_at, o.event, o.event_id, greatest(o.events, 1) as events, o.data::text, o.traceparent,
             extract(epoch from clock_timestamp() - o.created_at)::float8 as age_s",
    )
    .bind(i64::try_from(events_max).unwrap_or(i64::MAX))
    .bind(milliseconds(lease))
    .bind(EVENT_BYTES_MAX)
    .bind(above)
    .fetch_all(connection)
    .await
}

/// The number of the newest event; 0 if there is none.
pub(crate) async fn newest_event(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce(max(id), 0) from outbox where event is not null").fetch_one(connection).await
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
