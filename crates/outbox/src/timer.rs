use std::time::Duration;

use order::{Deadline, TimerId, TimerState, check_timer_due};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder, Row};
use time::OffsetDateTime;
use trace::TraceParent;
use tracing::Span;

/// When a timer is to fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerDue {
    /// Then; at once, if that is past.
    At(Deadline),
    /// So long from now on, by the database's clock.
    After(Duration),
}

/// A timer as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its name.
    pub id: TimerId,
    /// Where it stands.
    pub state: TimerState,
    /// When it fires, or was to.
    pub due_at: OffsetDateTime,
    /// Rises each time that it is armed anew, moved, or given other data.
    pub revision: i64,
    /// What goes along with its event, as JSON.
    pub data: Option<String>,
    /// When it fired.
    pub fired_at: Option<OffsetDateTime>,
    /// When it was first armed.
    pub created_at: OffsetDateTime,
    /// When it was armed, moved, fired or cancelled last.
    pub changed_at: OffsetDateTime,
}

/// Which timers are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimerFilter {
    /// Of this subject.
    pub subject: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// In this state.
    pub state: Option<TimerState>,
}

impl FromRow<'_, PgRow> for Timer {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        Ok(Self {
            id: TimerId::new(row.try_get("kind")?, row.try_get("subject")?).map_err(|error| decode(error.into()))?,
            state: row
                .try_get::<&str, _>("state")?
                .parse()
                .map_err(|error: order::BadTimerState| decode(error.into()))?,
            due_at: row.try_get("due_at")?,
            revision: row.try_get("revision")?,
            data: row.try_get("data")?,
            fired_at: row.try_get("fired_at")?,
            created_at: row.try_get("created_at")?,
            changed_at: row.try_get("changed_at")?,
        })
    }
}

const COLUMNS: &str = "kind, subject, state, due_at, revision, data::text as data, fired_at, created_at, changed_at";

/// Arms a timer, or moves it: the last call wins, and the same call again changes nothing. Its event `timer.<kind>` is published once
/// in effect when it is due. `data` is JSON of at most 8,192 bytes, which goes along with the event.
///
/// Call it with the connection of the transaction that makes the timer necessary. It is armed exactly if that commits. Returns the
/// timer's revision.
///
/// # Errors
/// Errors of the database; SQLSTATE `OV004` says what cannot be armed like this. The transaction cannot go on after one.
pub async fn arm_timer(
    transaction: &mut PgConnection,
    id: &TimerId,
    due: TimerDue,
    data: Option<&str>,
) -> Result<i64, sqlx::Error> {
    let (at, after_s) = match due {
        TimerDue::At(deadline) => {
            // At the edges of the calendar there may be no such instant in UTC, which the driver does not survive.
            let refused = |error: order::BadTimerDue| sqlx::Error::Encode(error.into());
            check_timer_due(deadline).map_err(refused)?;
            (Some(deadline.instant()), None)
        }
        TimerDue::After(wait) => (None, Some(wait.as_secs_f64())),
    };
    let traceparent = trace::onward(&Span::current(), &[]);
    sqlx::query_scalar(
        "with traced as (select set_config('overdue.traceparent', coalesce($6, ''), true))
         select overdue_arm($1, $2, coalesce($3, clock_timestamp() + $4 * interval '1 second'), $5::json) from traced",
    )
    .bind(id.kind())
    .bind(id.subject())
    .bind(at)
    .bind(after_s)
    .bind(data)
    .bind(traceparent.as_ref().map(TraceParent::as_str))
    .fetch_one(transaction)
    .await
}

/// Cancels a timer. Returns whether it does not fire any more: `false` where it has fired, or there is none.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn cancel_timer(transaction: &mut PgConnection, id: &TimerId) -> Result<bool, sqlx::Error> {
    let cancel = sqlx::query_scalar("select overdue_cancel($1, $2)").bind(id.kind()).bind(id.subject());
    cancel.fetch_one(transaction).await
}

/// Pulls a timer forward that is armed, so that it is due now. `None`: there is no timer of this name that is armed.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn make_timer_due(transaction: &mut PgConnection, id: &TimerId) -> Result<Option<Timer>, sqlx::Error> {
    let statement = format!(
        "update timers set due_at = least(due_at, clock_timestamp())
         where kind = $1 and subject = $2 and state = 'armed' returning {COLUMNS}"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(id.kind()).bind(id.subject()).fetch_optional(transaction).await
}

/// Looks a timer up.
///
/// # Errors
/// Errors of the database.
pub async fn timer(connection: &mut PgConnection, id: &TimerId) -> Result<Option<Timer>, sqlx::Error> {
    find(connection, id, "").await
}

/// Looks a timer up, and keeps others from changing it until the transaction ends.
///
/// # Errors
/// Errors of the database. The transaction cannot go on after one.
pub async fn lock_timer(transaction: &mut PgConnection, id: &TimerId) -> Result<Option<Timer>, sqlx::Error> {
    find(transaction, id, "for no key update").await
}

async fn find(connection: &mut PgConnection, id: &TimerId, lock: &str) -> Result<Option<Timer>, sqlx::Error> {
    let statement = format!("select {COLUMNS} from timers where kind = $1 and subject = $2 {lock}");
    sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(id.kind()).bind(id.subject()).fetch_optional(connection).await
}

/// Timers, those that are due first first, `count_max` at most.
///
/// # Errors
/// Errors of the database.
pub async fn timers(
    connection: &mut PgConnection,
    filter: &TimerFilter,
    count_max: usize,
) -> Result<Vec<Timer>, sqlx::Error> {
    let TimerFilter { subject, kind, state } = filter;
    let wanted = [("subject", subject.as_deref()), ("kind", kind.as_deref()), ("state", state.map(TimerState::as_str))];
    // What is not asked for does not stand in the statement: in one that is planned once for all values it would keep it from
    // using an index.
    let mut conditions = QueryBuilder::<Postgres>::new(format!("select {COLUMNS} from timers where true"));
    for (column, value) in wanted {
        if let Some(value) = value {
            conditions.push(format!(" and {column} = ")).push_bind(value);
        }
    }
    let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
    conditions.push(" order by timers.due_at, kind, subject limit ").push_bind(count_max);
    conditions.build_query_as().fetch_all(connection).await
}
