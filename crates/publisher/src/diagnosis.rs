//! What is wrong with a live database.

use std::time::Duration;

use broker::Finding;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::{SchemaError, backlog, check, past_deadline};

/// Indexes without which something is slow that must be fast; where the tables are the shop's own, it needs the like.
const INDEXES: [(&str, &str); 8] = [
    ("orders_pending_by_deadline", "the sweep, and the metrics, read all orders"),
    ("outbox_timeouts", "the timeouts of new orders wait behind events"),
    ("outbox_events", "events are looked for among all timeouts"),
    ("payments_by_trade", "notifications are slow to find their order"),
    ("payments_by_transaction", "one payment could pay two orders"),
    ("refunds_to_follow_up", "refunds are slow to find"),
    ("refunds_by_order", "the refunds of an order are slow to find"),
    ("api_requests_by_age", "old answers of the API are slow to delete"),
];

/// The key of the sweep's advisory lock, in the two halves under which `pg_locks` shows it.
const SWEEP_LOCK: (i64, i64) = (0x6f76_6572, 0x6475_6521);

/// By how much the clock of this machine may differ from the database's. Nothing depends on it but logs.
const SKEW_MAX: time::Duration = time::Duration::seconds(5);

/// How old the oldest row of the outbox may be.
const OUTBOX_AGE_MAX_S: f64 = 60.0;

/// What is wrong with the database, and its time. `host_now` gives this machine's.
///
/// # Errors
/// Whatever the database says where it cannot be asked.
pub async fn diagnose(
    pool: &PgPool,
    host_now: impl Fn() -> OffsetDateTime,
) -> Result<(Vec<Finding>, OffsetDateTime), sqlx::Error> {
    let mut findings = Vec::new();
    // Connecting must not count.
    let mut connection = pool.acquire().await?;
    let before = host_now();
    let now: OffsetDateTime = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *connection).await?;
    drop(connection);
    // The database's clock was read somewhere in between.
    let host = before + (host_now() - before) / 2;
    let skew: time::Duration = host - now;
    if skew.abs() > SKEW_MAX {
        let problem = format!("is {} s off the database's", skew.whole_seconds());
        findings.push(finding("clock of this machine", problem, "set the machines' clocks by NTP"));
    }
    match check(pool).await {
        Ok(()) => {}
        Err(SchemaError::Database(error)) => return Err(error),
        Err(error) => {
            findings.push(finding("schema", error.to_string(), "without the right schema nothing else can be checked"));
            return Ok((findings, now));
        }
    }
    indexes(pool, &mut findings).await?;
    trigger(pool, &mut findings).await?;
    state(pool, &mut findings).await?;
    Ok((findings, now))
}

fn finding(object: &str, problem: impl Into<String>, advice: &str) -> Finding {
    Finding { object: object.to_owned(), problem: problem.into(), advice: advice.to_owned() }
}

async fn indexes(pool: &PgPool, findings: &mut Vec<Finding>) -> Result<(), sqlx::Error> {
    let usable: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid
         where i.indisvalid and i.indisready and c.relnamespace = (select relnamespace from pg_class where oid = 'outbox'::regclass)",
    )
    .fetch_all(pool)
    .await?;
    // Over the tables of a shop, or in partitions, they have other names.
    let own_orders: bool = sqlx::query_scalar(
        "select coalesce((select relkind = 'r' from pg_class where oid = to_regclass('orders')), false)",
    )
    .fetch_one(pool)
    .await?;
    for (index, consequence) in INDEXES {
        let elsewhere = index.starts_with("orders") && !own_orders;
        if !elsewhere && !usable.iter().any(|name| name == index) {
            let advice =
                "create it as migrations/ does (`create index concurrently`), or `reindex` it if it is invalid";
            findings.push(finding(&format!("index {index}"), format!("is missing or invalid: {consequence}"), advice));
        }
    }
    Ok(())
}

async fn trigger(pool: &PgPool, findings: &mut Vec<Finding>) -> Result<(), sqlx::Error> {
    let on: bool = sqlx::query_scalar(
        "select exists (select 1 from pg_trigger where tgname = 'outbox_wakes_relay' and tgenabled in ('O', 'A'))",
    )
    .fetch_one(pool)
    .await?;
    if !on {
        let problem = "is missing or disabled: relays look only now and then, so short timeouts are armed late";
        findings.push(finding(
            "trigger outbox_wakes_relay",
            problem,
            "enable it, or create it as migrations/0001_orders.sql does",
        ));
    }
    Ok(())
}

async fn state(pool: &PgPool, findings: &mut Vec<Finding>) -> Result<(), sqlx::Error> {
    let backlog = backlog(pool).await?;
    if backlog.oldest_age_s > OUTBOX_AGE_MAX_S {
        let age = humantime(backlog.oldest_age_s);
        let problem =
            format!("holds {} timeouts and {} events, the oldest for {age}", backlog.timeouts, backlog.events);
        findings.push(finding("outbox", problem, "start a relay; if one runs, its log says why it cannot send"));
    }
    let overdue = past_deadline(pool).await?;
    if overdue > 0 {
        let problem = format!("{overdue} are pending although their deadline passed a minute ago or more");
        findings.push(finding(
            "orders",
            problem,
            "start worker and sweep; if they run, their logs name what they cannot settle",
        ));
    }
    let unclear: i64 = sqlx::query_scalar(
        "select count(*) from orders o join payments p on p.order_id = o.id and p.gateway <> 'none'
         where o.status = 'pending' and o.payment_deadline < statement_timestamp() - interval '10 minutes'",
    )
    .fetch_one(pool)
    .await?;
    if unclear > 0 {
        let problem = format!(
            "{unclear} are pending ten minutes after their deadline: their gateway has not said how they stand"
        );
        let advice = "`overdue parked list` names those that were given up; the worker's log says why the others wait";
        findings.push(finding("orders at a gateway", problem, advice));
    }
    let (high, low) = SWEEP_LOCK;
    let swept: bool = sqlx::query_scalar(
        "select exists (select 1 from pg_locks
                        where locktype = 'advisory' and granted and classid::bigint = $1 and objid::bigint = $2
                          and database = (select oid from pg_database where datname = current_database()))",
    )
    .bind(high)
    .bind(low)
    .fetch_one(pool)
    .await?;
    if !swept {
        let advice = "start a process with the role sweep: without it, orders whose messages are lost stay pending";
        findings.push(finding("sweep", "nobody sweeps", advice));
    }
    let refunds = refunds_needing_person(pool).await?;
    if refunds > 0 {
        let advice = "`overdue refunds list --state needs_person` says why";
        findings.push(finding("refunds", format!("{refunds} cannot go on by themselves"), advice));
    }
    Ok(())
}

/// How many refunds wait for a person.
///
/// # Errors
/// Whatever the database says.
pub async fn refunds_needing_person(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from refunds where state = 'needs_person'").fetch_one(pool).await
}

fn humantime(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
