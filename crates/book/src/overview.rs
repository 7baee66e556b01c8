//! How the books stand at this moment, for a page that is looked at often. Whatever can be many is counted up to a bound.

use database::Client;
use time::OffsetDateTime;

use crate::postgres::is_bad;
use crate::{BookError, is_led};

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// So many, or [`COUNT_MAX`] if there are more.
    pub number: u64,
    /// Whether there are more than [`COUNT_MAX`].
    pub is_more: bool,
}

/// Things that wait, and since when the oldest of them does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// How many.
    pub count: Count,
    /// The moment of the oldest.
    pub oldest: Option<OffsetDateTime>,
}

/// How the books stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The database's time.
    pub now: OffsetDateTime,
    /// Orders that are pending a minute after their deadline or later; the oldest: that deadline.
    pub overdue: Waiting,
    /// Orders that are pending and due in the next hour.
    pub due_in_an_hour: Count,
    /// And in the next five minutes.
    pub due_in_minutes: Count,
    /// Timeouts in the outbox.
    pub timeouts: Waiting,
    /// Rows of events in the outbox.
    pub events: Waiting,
    /// Timers that are armed a minute after they were due or later.
    pub timers_overdue: Waiting,
    /// Timers that are armed and due in the next hour.
    pub timers_due: Count,
    /// Refunds that need a person.
    pub refunds: Waiting,
    /// Refunds that have waited for an hour or more to be accepted.
    pub refunds_waiting: Waiting,
    /// Whether any process has the lead of the sweep.
    pub is_swept: bool,
}

/// Nothing is counted any further.
pub const COUNT_MAX: u64 = 10_000;

/// `$1` is one more than [`COUNT_MAX`]: each part reads so many entries of an index at the most.
const OVERVIEW: &str = "
    select clock_timestamp() as now,
        overdue.count as overdue_count, overdue.oldest as overdue_oldest,
        due_in_an_hour.count as due_in_an_hour_count, due_in_an_hour.oldest as due_in_an_hour_oldest,
        due_in_an_hour.soon as due_in_minutes_count,
        timeouts.count as timeouts_count, timeouts.oldest as timeouts_oldest,
        events.count as events_count, events.oldest as events_oldest,
        timers_overdue.count as timers_overdue_count, timers_overdue.oldest as timers_overdue_oldest,
        timers_due.count as timers_due_count, timers_due.oldest as timers_due_oldest,
        refunds.count as refunds_count, refunds.oldest as refunds_oldest,
        refunds_waiting.count as refunds_waiting_count, refunds_waiting.oldest as refunds_waiting_oldest
    from
        (select count(*) as count, min(at) as oldest from (
        select greatest(payment_deadline, '2000-01-01Z') as at from orders
        where status = 'pending' and payment_deadline < statement_timestamp() - interval '1 minute'
        order by payment_deadline limit $1) each_one) overdue,
        (select count(*) as count, null::timestamptz as oldest,
                count(*) filter (where at < statement_timestamp() + interval '5 minutes') as soon
         from (
        select payment_deadline as at from orders
        where status = 'pending' and payment_deadline >= statement_timestamp()
          and payment_deadline < statement_timestamp() + interval '1 hour'
        order by payment_deadline limit $1) each_one) due_in_an_hour,
        (select count(*) as count, min(at) as oldest from (
        select created_at as at from outbox where event is null order by id limit $1) each_one) timeouts,
        (select count(*) as count, min(at) as oldest from (
        select created_at as at from outbox where event is not null order by id limit $1) each_one) events,
        (select count(*) as count, min(at) as oldest from (
        select due_at as at from timers
        where state = 'armed' and due_at < statement_timestamp() - interval '1 minute'
          and changed_at < statement_timestamp() - interval '1 minute'
        order by timers.due_at limit $1) each_one) timers_overdue,
        (select count(*) as count, min(at) as oldest from (
        select null::timestamptz as at from timers
        where state = 'armed' and due_at >= statement_timestamp() and due_at < statement_timestamp() + interval '1 hour'
        order by timers.due_at limit $1) each_one) timers_due,
        (select count(*) as count, min(at) as oldest from (
        select created_at as at from refunds where state = 'needs_person' order by created_at limit $1) each_one) refunds,
        (select count(*) as count, min(at) as oldest from (
        select coalesce(retried_at, created_at) as at from refunds
        where state in ('requested', 'processing') and state = 'requested'
          and coalesce(retried_at, created_at) < statement_timestamp() - interval '1 hour' limit $1) each_one) refunds_waiting";

impl Count {
    fn of(counted: i64) -> Self {
        let counted = u64::try_from(counted).unwrap_or_default();
        Self { number: counted.min(COUNT_MAX), is_more: counted > COUNT_MAX }
    }
}

/// How the books stand now.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn overview(client: &Client) -> Result<Overview, BookError> {
    let bound = i64::try_from(COUNT_MAX + 1).unwrap_or(i64::MAX);
    let row = client
        .within(is_bad, async |client| client.query_one(&client.prepare_cached(OVERVIEW).await?, &[&bound]).await);
    let row = row.await?;
    let count = |name: &str| -> Result<Count, BookError> {
        Ok(Count::of(row.try_get::<_, i64>(format!("{name}_count").as_str())?))
    };
    let waiting = |name: &str| -> Result<Waiting, BookError> {
        Ok(Waiting { count: count(name)?, oldest: row.try_get(format!("{name}_oldest").as_str())? })
    };
    Ok(Overview {
        now: row.try_get("now")?,
        overdue: waiting("overdue")?,
        due_in_an_hour: count("due_in_an_hour")?,
        due_in_minutes: count("due_in_minutes")?,
        timeouts: waiting("timeouts")?,
        events: waiting("events")?,
        timers_overdue: waiting("timers_overdue")?,
        timers_due: count("timers_due")?,
        refunds: waiting("refunds")?,
        refunds_waiting: waiting("refunds_waiting")?,
        is_swept: is_led(client).await?,
    })
}

/// How many timeouts and how many rows of events about an order wait in the outbox, among the oldest [`COUNT_MAX`] rows. A row that
/// announces several events counts for its first order alone.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn waiting_in_outbox(client: &Client, id: &str) -> Result<(i64, i64), BookError> {
    let bound = i64::try_from(COUNT_MAX).unwrap_or(i64::MAX);
    let row = client.within(is_bad, async |client| {
        let waiting = "select count(*) filter (where event is null), count(*) filter (where event is not null)
                       from (select order_id, event from outbox order by id limit $2) oldest where order_id = $1";
        client.query_one(&client.prepare_cached(waiting).await?, &[&id, &bound]).await
    });
    let row = row.await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
