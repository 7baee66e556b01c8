use std::collections::BTreeMap;
use std::time::Duration;

use order::OrderStatus;
use sqlx::PgConnection;

/// How a set of orders ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// How many stand where.
    pub counts: Counts,
    /// How late the closed ones were closed, by the payment timeout with which they were created (whole
    /// seconds).
    pub lateness: BTreeMap<u64, Lateness>,
}

/// Orders by status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting for their payment.
    pub pending: i64,
    /// Paid.
    pub paid: i64,
    /// Cancelled.
    pub cancelled: i64,
    /// Closed.
    pub closed: i64,
    /// Orders whose payment came too late and is back.
    pub refunded: i64,
}

/// From deadline to close, by the database's own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lateness {
    /// How many orders were closed.
    pub closed: i64,
    /// Half of them were closed no later than this.
    pub p50: Duration,
    /// 99 in 100 were closed no later than this.
    pub p99: Duration,
    /// The latest.
    pub max: Duration,
}

/// How a set of timers ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimerSummary {
    /// Still to fire.
    pub armed: i64,
    /// Fired.
    pub fired: i64,
    /// Cancelled before.
    pub cancelled: i64,
    /// Half of them fired no later than this after their time.
    pub p50: Duration,
    /// 99 in 100 fired no later than this.
    pub p99: Duration,
}

/// How timers whose subjects begin with `prefix` ended.
///
/// # Errors
/// Errors of the database.
pub async fn timer_summary(connection: &mut PgConnection, prefix: &str) -> Result<TimerSummary, sqlx::Error> {
    let (armed, fired, cancelled, p50, p99): (i64, i64, i64, f64, f64) = sqlx::query_as(
        "select count(*) filter (where state = 'armed'), count(*) filter (where state = 'fired'),
                count(*) filter (where state = 'cancelled'),
                coalesce(percentile_cont(0.5) within group (order by extract(epoch from fired_at - due_at)::float8), 0),
                coalesce(percentile_cont(0.99) within group (order by extract(epoch from fired_at - due_at)::float8), 0)
         from timers where starts_with(subject, $1)",
    )
    .bind(prefix)
    .fetch_one(connection)
    .await?;
    let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or_default();
    Ok(TimerSummary { armed, fired, cancelled, p50: seconds(p50), p99: seconds(p99) })
}

/// How many orders whose IDs begin with `prefix` stand where.
///
/// # Errors
/// Errors of the database.
pub async fn counts(connection: &mut PgConnection, prefix: &str) -> Result<Counts, sqlx::Error> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select status, count(*) from orders where starts_with(id, $1) group by status")
            .bind(prefix)
            .fetch_all(&mut *connection)
            .await?;
    let refunded =
        sqlx::query_scalar("select count(*) from refunds where starts_with(order_id, $1) and state = 'succeeded'")
            .bind(prefix)
            .fetch_one(connection)
            .await?;
    let of = |status: OrderStatus| rows.iter().find(|(name, _)| name == status.as_str()).map_or(0, |(_, count)| *count);
    Ok(Counts {
        pending: of(OrderStatus::Pending),
        paid: of(OrderStatus::Paid),
        cancelled: of(OrderStatus::Cancelled),
        closed: of(OrderStatus::Closed),
        refunded,
    })
}

/// The counts, and how late the closed orders were closed.
///
/// # Errors
/// Errors of the database.
pub async fn summary(connection: &mut PgConnection, prefix: &str) -> Result<Summary, sqlx::Error> {
    let rows: Vec<(i64, i64, f64, f64, f64)> = sqlx::query_as(
        "with closed as (
             select round(extract(epoch from payment_deadline - created_at))::bigint as timeout_s,
                    extract(epoch from closed_at - payment_deadline)::float8 as late_s
             from orders where status = 'closed' and starts_with(id, $1)
         )
         select timeout_s, count(*), percentile_cont(0.5) within group (order by late_s),
                percentile_cont(0.99) within group (order by late_s), max(late_s)
         from closed group by timeout_s",
    )
    .bind(prefix)
    .fetch_all(&mut *connection)
    .await?;
    let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or_default();
    let lateness = rows.into_iter().map(|(timeout_s, closed, p50, p99, max)| {
        let lateness = Lateness { closed, p50: seconds(p50), p99: seconds(p99), max: seconds(max) };
        (u64::try_from(timeout_s).unwrap_or_default(), lateness)
    });
    Ok(Summary { counts: counts(connection, prefix).await?, lateness: lateness.collect() })
}
