//! The table of refunds: claimed, taken a step further, recorded; and looked at and resolved by people.

use std::time::Duration;

use database::Client;
use order::{Money, OrderId};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::BookError;
use crate::postgres::is_bad;

/// The refunds of late payments.
#[derive(Clone)]
pub struct Refunds {
    client: Client,
}

/// A refund that is due for its next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRefund {
    /// Its number, the same for every attempt.
    pub refund_no: String,
    /// The order whose payment came too late.
    pub order_id: OrderId,
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// The payment that goes back.
    pub transaction_id: String,
    /// How much.
    pub amount: Money,
    /// Why it goes back.
    pub reason: String,
    /// What to do next.
    pub step: RefundStep,
    /// Attempts since its last progress that settled nothing.
    pub attempts: u32,
    /// Since it was recorded, or a person last had it asked for again.
    pub age: Duration,
}

/// The next step of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStep {
    /// Ask the gateway for it.
    Request,
    /// Ask whether it has arrived.
    Query,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundProgress {
    /// To be taken up again after `wait`.
    Again {
        /// What to do then.
        step: RefundStep,
        /// Attempts that settled nothing, this one included.
        attempts: u32,
        /// What went wrong, if anything did.
        problem: Option<String>,
        /// How long until then.
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
    /// The number of the trade there.
    pub trade_no: String,
    /// The payment that goes back; null: the gateway did not tell.
    pub transaction_id: Option<String>,
    /// How much, in the currency's smallest unit; null: the gateway did not tell.
    pub amount_minor: Option<i64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// Why it goes back.
    pub reason: String,
    /// `requested`, `processing`, `succeeded` or `needs_person`.
    pub state: String,
    /// What went wrong last.
    pub problem: Option<String>,
    /// Attempts since its last progress that settled nothing.
    pub attempts: i32,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the money arrived.
    #[serde(with = "time::serde::rfc3339::option")]
    pub succeeded_at: Option<OffsetDateTime>,
    /// What the gateway has signed, where a person must look at it.
    pub said: Option<String>,
    /// When it is looked at next, unless it has come to its end.
    #[serde(with = "time::serde::rfc3339")]
    pub next_attempt_at: OffsetDateTime,
}

impl Refunds {
    /// The refunds in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Claims refunds at these gateways whose next step is due. No other process takes them for the time of the lease.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn claim(
        &self,
        gateways: &[String],
        count_max: i64,
        lease: Duration,
    ) -> Result<Vec<DueRefund>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let claim = client.prepare_cached(include_str!("claim_refunds.sql")).await?;
            client.query(&claim, &[&gateways, &count_max, &lease.as_secs_f64()]).await
        });
        let rows = rows.await?;
        Ok(rows.iter().filter_map(|row| due_refund(row).transpose()).collect::<Result<_, _>>()?)
    }

    /// Records how a step of a refund ended, unless the refund has come to its end before. Says whether it was recorded.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn record(&self, refund_no: &str, progress: &RefundProgress) -> Result<bool, BookError> {
        let (state, attempts, problem, wait, succeeded_at) = match progress {
            RefundProgress::Again { step, attempts, problem, wait } => {
                let state = if *step == RefundStep::Request { "requested" } else { "processing" };
                let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
                (state, Some(attempts), problem.as_deref(), wait.as_secs_f64(), None)
            }
            RefundProgress::Succeeded(at) => ("succeeded", None, None, 0.0, *at),
            RefundProgress::NeedsPerson(problem) => ("needs_person", None, Some(problem.as_str()), 0.0, None),
        };
        let recorded = self.client.within(is_bad, async |client| {
            let record = client.prepare_cached(include_str!("record_refund.sql")).await?;
            client.query(&record, &[&refund_no, &state, &attempts, &problem, &wait, &succeeded_at]).await
        });
        Ok(!recorded.await?.is_empty())
    }

    /// Refunds on record, the newest first; only those in `state`, where one is given.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn list(&self, state: Option<&str>, count_max: i64) -> Result<Vec<RefundRecord>, BookError> {
        self.records(
            "$1::text is null or state = $1 order by created_at desc, refund_no limit $2",
            &[&state, &count_max],
        )
        .await
    }

    /// Refunds that need a person, the oldest first, after the one of this time and number.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn needing_person(
        &self,
        after: Option<(OffsetDateTime, &str)>,
        count_max: i64,
    ) -> Result<Vec<RefundRecord>, BookError> {
        let (at, refund_no) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
        let which =
            "state = 'needs_person' and (created_at, refund_no) > ($1, $2) order by created_at, refund_no limit $3";
        self.records(which, &[&at, &refund_no, &count_max]).await
    }

    /// The refunds of an order, the oldest first.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn of_order(&self, id: &str) -> Result<Vec<RefundRecord>, BookError> {
        self.records("order_id = $1 order by created_at, refund_no limit 100", &[&id]).await
    }

    /// One refund.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn get(&self, refund_no: &str) -> Result<Option<RefundRecord>, BookError> {
        Ok(self.records("refund_no = $1", &[&refund_no]).await?.pop())
    }

    async fn records(&self, which: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<RefundRecord>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let list = format!(
                "select refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem,
                     attempts, created_at, succeeded_at, said, next_attempt_at
                 from refunds where {which}"
            );
            client.query(&list, values).await
        });
        Ok(rows.await?.iter().map(record).collect::<Result<_, _>>()?)
    }

    /// Has a refund that needed a person asked for again, under the same number. `false`: no refund of this number needs a
    /// person, or its money is for a person to place.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn retry(&self, refund_no: &str) -> Result<bool, BookError> {
        let retried = self.client.within(is_bad, async |client| {
            let retry = "update refunds
                         set state = 'requested', attempts = 0, next_attempt_at = clock_timestamp(),
                             retried_at = clock_timestamp(), updated_at = clock_timestamp()
                         where refund_no = $1 and state = 'needs_person' and refund_no like 'overdue-%'";
            client.execute(retry, &[&refund_no]).await
        });
        Ok(retried.await? == 1)
    }

    /// Marks a refund that needed a person as done with, and keeps what was done about it. `false`: no refund of this
    /// number needs a person.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn resolve(&self, refund_no: &str, note: &str) -> Result<bool, BookError> {
        let resolved = self.client.within(is_bad, async |client| {
            let resolve = "update refunds
                           set state = 'succeeded', succeeded_at = clock_timestamp(), updated_at = clock_timestamp(),
                               problem = concat_ws('; ', problem, 'resolved by hand: ' || $2)
                           where refund_no = $1 and state = 'needs_person'";
            client.execute(resolve, &[&refund_no, &note]).await
        });
        Ok(resolved.await? == 1)
    }
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
        trade_no: row.try_get("trade_no")?,
        transaction_id: row.try_get("transaction_id")?,
        amount_minor: row.try_get("amount_minor")?,
        currency: row.try_get("currency")?,
        reason: row.try_get("reason")?,
        state: row.try_get("state")?,
        problem: row.try_get("problem")?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        succeeded_at: row.try_get("succeeded_at")?,
        said: row.try_get::<_, Option<&[u8]>>("said")?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        next_attempt_at: row.try_get("next_attempt_at")?,
    })
}
