//! The table of refunds: claimed, taken a step further, written down.

use std::time::Duration;

use order::{Money, OrderId};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::book::judge;
use crate::{BookError, OrderBook, Pool};

/// A refund that is due for its next step.
#[derive(Debug)]
pub(crate) struct DueRefund {
    pub(crate) refund_no: String,
    pub(crate) order_id: OrderId,
    pub(crate) gateway: String,
    pub(crate) trade_no: String,
    pub(crate) transaction_id: String,
    pub(crate) amount: Money,
    pub(crate) reason: String,
    pub(crate) step: RefundStep,
    pub(crate) attempts: u32,
    /// Since it was recorded.
    pub(crate) age: Duration,
}

/// The next step of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefundStep {
    /// Ask the gateway for it.
    Request,
    /// Ask whether it has arrived.
    Query,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) enum RefundProgress {
    Again {
        step: RefundStep,
        attempts: u32,
        problem: Option<String>,
        wait: Duration,
    },
    /// The money has arrived; when, if the gateway tells.
    Succeeded(Option<OffsetDateTime>),
    /// For a person, and why.
    NeedsPerson(String),
}

/// A refund as it is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefundRecord {
    /// Its number.
    pub refund_no: String,
    /// The order whose payment came too late.
    pub order_id: String,
    /// The gateway.
    pub gateway: String,
    /// The payment that goes back.
    pub transaction_id: String,
    /// How much, in the currency's smallest unit.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Why it goes back.
    pub reason: String,
    /// `requested`, `processing`, `succeeded` or `needs_person`.
    pub state: String,
    /// What went wrong last.
    pub problem: Option<String>,
    /// Attempts that came to nothing since its last progress.
    pub attempts: i32,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the money arrived.
    #[serde(with = "time::serde::rfc3339::option")]
    pub succeeded_at: Option<OffsetDateTime>,
}

impl OrderBook {
    /// Claims refunds whose next step is due, so that nobody else takes it for the time of the lease.
    pub(crate) async fn claim_refunds(
        &self,
        gateways: &[String],
        count_max: i64,
        lease: Duration,
    ) -> Result<Vec<DueRefund>, BookError> {
        let rows = self
            .with_client(async |client| {
                let claim = client.prepare_cached(include_str!("claim_refunds.sql")).await?;
                client.query(&claim, &[&gateways, &count_max, &lease.as_secs_f64()]).await
            })
            .await?;
        rows.iter().map(|row| due_refund(row).map_err(judge)).filter_map(Result::transpose).collect()
    }

    /// Writes down what became of a refund, unless it has come to its end before. Says whether it was written.
    pub(crate) async fn record_refund(&self, refund_no: &str, progress: &RefundProgress) -> Result<bool, BookError> {
        let (state, attempts, problem, wait, succeeded_at) = match progress {
            RefundProgress::Again { step, attempts, problem, wait } => {
                let state = if *step == RefundStep::Request { "requested" } else { "processing" };
                (
                    state,
                    Some(i32::try_from(*attempts).unwrap_or(i32::MAX)),
                    problem.as_deref(),
                    wait.as_secs_f64(),
                    None,
                )
            }
            RefundProgress::Succeeded(at) => ("succeeded", None, None, 0.0, *at),
            RefundProgress::NeedsPerson(problem) => ("needs_person", None, Some(problem.as_str()), 0.0, None),
        };
        let written = self
            .with_client(async |client| {
                let record = client
                    .prepare_cached(
                        "with recorded as (
                             update refunds
                             set state = $2, attempts = coalesce($3, attempts), problem = $4,
                                 next_attempt_at = clock_timestamp() + $5 * interval '1 second',
                                 succeeded_at = case when $2 = 'succeeded' then coalesce($6, clock_timestamp()) end,
                                 updated_at = clock_timestamp()
                             where refund_no = $1 and state <> 'succeeded'
                               and (state <> 'needs_person' or $2 = 'succeeded')
                             returning *
                         ),
                         announced as (
                             insert into outbox (order_id, due_at, event, event_id, data)
                             select order_id, clock_timestamp(), 'payment.refunded', 'payment-refunded:' || refund_no,
                                    json_build_object(
                                        'order_id', order_id, 'refund_no', refund_no, 'transaction_id', transaction_id,
                                        'gateway', gateway, 'refunded_at', succeeded_at,
                                        'amount_minor', amount_minor, 'currency', currency)
                             from recorded where state = 'succeeded'
                         )
                         select 1 from recorded",
                    )
                    .await?;
                client.query(&record, &[&refund_no, &state, &attempts, &problem, &wait, &succeeded_at]).await
            })
            .await?;
        Ok(!written.is_empty())
    }
}

/// Refunds on record, the newest first, at most `count_max`; only those in `state`, where one is given.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn refunds(pool: &Pool, state: Option<&str>, count_max: i64) -> Result<Vec<RefundRecord>, BookError> {
    let client = pool.get().await.map_err(|error| BookError::Away(error.to_string()))?;
    let rows = client
        .query(
            "select refund_no, order_id, gateway, transaction_id, amount_minor, currency, reason, state, problem,
                    attempts, created_at, succeeded_at
             from refunds where $1::text is null or state = $1 order by created_at desc, refund_no limit $2",
            &[&state, &count_max],
        )
        .await
        .map_err(judge)?;
    rows.iter().map(|row| record(row).map_err(judge)).collect()
}

/// Marks a refund that needed a person as done with, and keeps what was done about it. `false`: there is none of
/// this number that needs a person.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn resolve_refund(pool: &Pool, refund_no: &str, note: &str) -> Result<bool, BookError> {
    let client = pool.get().await.map_err(|error| BookError::Away(error.to_string()))?;
    let resolved = client
        .execute(
            "update refunds
             set state = 'succeeded', succeeded_at = clock_timestamp(), updated_at = clock_timestamp(),
                 problem = concat_ws('; ', problem, 'resolved by hand: ' || $2)
             where refund_no = $1 and state = 'needs_person'",
            &[&refund_no, &note],
        )
        .await
        .map_err(judge)?;
    Ok(resolved == 1)
}

/// `None`: the row names no order.
fn due_refund(row: &Row) -> Result<Option<DueRefund>, tokio_postgres::Error> {
    let Ok(order_id) = OrderId::new(row.try_get("order_id")?) else { return Ok(None) };
    let step = match row.try_get("state")? {
        "requested" => RefundStep::Request,
        _ => RefundStep::Query,
    };
    Ok(Some(DueRefund {
        refund_no: row.try_get("refund_no")?,
        order_id,
        gateway: row.try_get("gateway")?,
        trade_no: row.try_get("trade_no")?,
        transaction_id: row.try_get("transaction_id")?,
        amount: Money { minor: row.try_get("amount_minor")?, currency: row.try_get("currency")? },
        reason: row.try_get("reason")?,
        step,
        attempts: u32::try_from(row.try_get::<_, i32>("attempts")?).unwrap_or(0),
        age: Duration::try_from_secs_f64(row.try_get("age_s")?).unwrap_or_default(),
    }))
}

fn record(row: &Row) -> Result<RefundRecord, tokio_postgres::Error> {
    Ok(RefundRecord {
        refund_no: row.try_get("refund_no")?,
        order_id: row.try_get("order_id")?,
        gateway: row.try_get("gateway")?,
        transaction_id: row.try_get("transaction_id")?,
        amount_minor: row.try_get("amount_minor")?,
        currency: row.try_get("currency")?,
        reason: row.try_get("reason")?,
        state: row.try_get("state")?,
        problem: row.try_get("problem")?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        succeeded_at: row.try_get("succeeded_at")?,
    })
}
