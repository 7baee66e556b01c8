use order::{Deadline, OrderId, TimerState};
use outbox::{Timer, TimerFilter};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;

use crate::log::rows;
use crate::view::show;
use crate::{LogRow, OrderError};

/// Something that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// When, by the database's clock.
    pub at: OffsetDateTime,
    /// What: `created`, `deadline moved`, `paid`, `cancelled`, `closed`, `refund recorded`, `refund succeeded`,
    /// `trade not found`, `timer armed`, `timer fired`, `timer cancelled`.
    pub what: String,
    /// Why, or more of it.
    pub detail: String,
    /// Who did it: a part of the program, a service, or a gateway.
    pub actor: String,
    /// The person who had it done, if one had: `merchant alice`.
    pub operator: Option<String>,
}

/// The most timers of an order that are told of.
const TIMERS_MAX: usize = 100;

struct RefundRow {
    refund_no: String,
    gateway: String,
    reason: String,
    created_at: OffsetDateTime,
    succeeded_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for RefundRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            refund_no: row.try_get("refund_no")?,
            gateway: row.try_get("gateway")?,
            reason: row.try_get("reason")?,
            created_at: row.try_get("created_at")?,
            succeeded_at: row.try_get("succeeded_at")?,
        })
    }
}

/// All that is on record of an order, oldest first: its log, what its gateway said, and the timers whose subject it is.
///
/// # Errors
/// [`OrderError::Unknown`] if nothing is and there is no such order, [`OrderError::Database`].
pub async fn timeline(connection: &mut PgConnection, id: &OrderId) -> Result<Vec<TimelineEntry>, OrderError> {
    let mut entries: Vec<TimelineEntry> = rows(connection, id).await?.into_iter().map(of_log).collect();
    let missed: Vec<(OffsetDateTime, String, String)> = sqlx::query_as(
        "select not_found_at, gateway, trade_no from payments where order_id = $1 and not_found_at is not null",
    )
    .bind(id.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for (at, gateway, trade_no) in missed {
        let detail = format!("the gateway knew no trade {trade_no}");
        entries.push(of_gateway(at, "trade not found", detail, &gateway));
    }
    let refunds: Vec<RefundRow> = sqlx::query_as(
        "select refund_no, gateway, reason, created_at, succeeded_at from refunds where order_id = $1 order by created_at",
    )
    .bind(id.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for RefundRow { refund_no, gateway, reason, created_at, succeeded_at } in refunds {
        entries.push(of_gateway(created_at, "refund recorded", format!("{refund_no}: {reason}"), &gateway));
        entries.extend(succeeded_at.map(|at| of_gateway(at, "refund succeeded", refund_no, &gateway)));
    }
    let filter = TimerFilter { subject: Some(id.to_string()), ..TimerFilter::default() };
    entries.extend(outbox::timers(connection, &filter, TIMERS_MAX).await?.into_iter().map(of_timer));
    if entries.is_empty() {
        // The shop's own code may have made the order and told the log nothing.
        show(connection, id).await?;
    }
    // Stable: what was written at the same moment stays in the order of the log.
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

fn of_log(row: LogRow) -> TimelineEntry {
    let what = match (row.from_status.as_deref(), row.to_status.as_str()) {
        (None, _) => "created",
        (Some("pending"), "pending") => "deadline moved",
        (Some(_), status) => status,
    };
    let operator = row.operator.map(|name| [row.operator_type.unwrap_or_default(), name].join(" "));
    TimelineEntry { at: row.at, what: what.to_owned(), detail: row.reason, actor: row.actor, operator }
}

fn of_timer(timer: Timer) -> TimelineEntry {
    let due = Deadline::at(timer.due_at);
    let (kind, revision) = (timer.id.kind(), timer.revision);
    let detail = match timer.state {
        TimerState::Armed => format!("{kind}, due at {due} (revision {revision})"),
        TimerState::Fired | TimerState::Cancelled => format!("{kind}, was due at {due} (revision {revision})"),
    };
    let (what, actor) = (format!("timer {}", timer.state), "timers".to_owned());
    TimelineEntry { at: timer.fired_at.unwrap_or(timer.changed_at), what, detail, actor, operator: None }
}

fn of_gateway(at: OffsetDateTime, what: &str, detail: String, gateway: &str) -> TimelineEntry {
    TimelineEntry { at, what: what.to_owned(), detail, actor: gateway.to_owned(), operator: None }
}
