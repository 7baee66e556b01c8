//! Requests under an idempotency key: done once, answered the same each time, as the IETF's draft of the header
//! `Idempotency-Key` has it (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

/// What is known of a request under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is this caller's to do and to answer.
    Yours(Request),
    /// It was done, and answered like this.
    Done {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// Another caller is at work on it.
    InFlight,
    /// Another request was made under this key.
    OtherRequest,
}

/// A request that the holder of this value is at work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    key: String,
    claim: String,
    /// An earlier caller has committed the change and died before it could answer. Only the answer is left to do.
    changed: bool,
}

/// A change of orders for a request. Its transaction also marks the request as changed, so that the change is not made
/// a second time.
pub struct Change<'a> {
    transaction: Transaction<'a, Postgres>,
    request: Option<&'a Request>,
}

impl<'a> Change<'a> {
    /// Begins. `None`: the change was made for this request already, by a caller that died before it could answer.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn begin(
        connection: &'a mut PgConnection,
        request: Option<&'a Request>,
    ) -> Result<Option<Self>, sqlx::Error> {
        if request.is_some_and(|request| request.changed) {
            return Ok(None);
        }
        Ok(Some(Self { transaction: connection.begin().await?, request }))
    }

    /// Where the change is made.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Commits. Without this, nothing was changed.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        if let Some(request) = self.request {
            let marked = sqlx::query("update api_requests set changed = true where key = $1 and claim = $2::uuid")
                .bind(&request.key)
                .bind(&request.claim)
                .execute(&mut *self.transaction)
                .await?;
            // Another caller has taken the request over, and will make the change.
            if marked.rows_affected() != 1 {
                return Err(sqlx::Error::RowNotFound);
            }
        }
        self.transaction.commit().await
    }
}

/// Claims a request, unless another caller has. `fingerprint` tells it from others. A caller that does not finish
/// within `lease` is presumed dead, and the next one may claim it.
///
/// # Errors
/// Errors of the database.
pub async fn claim_request(
    connection: &mut PgConnection,
    key: &str,
    fingerprint: &str,
    lease: Duration,
) -> Result<Claim, sqlx::Error> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let claimed: Option<(String, bool)> = sqlx::query_as(
        "insert into api_requests (key, fingerprint, claimed_until)
         values ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
         on conflict (key) do update set claimed_until = excluded.claimed_until, claim = excluded.claim
         where api_requests.status is null and api_requests.claimed_until < clock_timestamp()
           and api_requests.fingerprint = excluded.fingerprint
         returning claim::text, changed",
    )
    .bind(key)
    .bind(fingerprint)
    .bind(lease_ms)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some((claim, changed)) = claimed {
        return Ok(Claim::Yours(Request { key: key.to_owned(), claim, changed }));
    }
    let known: Option<(String, Option<i32>, Option<String>)> =
        sqlx::query_as("select fingerprint, status, body from api_requests where key = $1")
            .bind(key)
            .fetch_optional(&mut *connection)
            .await?;
    Ok(match known {
        Some((known, ..)) if known != fingerprint => Claim::OtherRequest,
        Some((_, Some(status), Some(body))) => Claim::Done { status: u16::try_from(status).unwrap_or(500), body },
        // Deleted at this very moment, or in hand by another caller.
        _ => Claim::InFlight,
    })
}

/// Keeps the answer for the same request again, unless another caller has taken it over.
///
/// # Errors
/// Errors of the database.
pub async fn finish_request(
    connection: &mut PgConnection,
    request: &Request,
    status: u16,
    body: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_requests set status = $3, body = $4 where key = $1 and claim = $2::uuid and status is null",
    )
    .bind(&request.key)
    .bind(&request.claim)
    .bind(i32::from(status))
    .bind(body)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a request up that could not be done or answered. The next caller may claim it at once.
///
/// # Errors
/// Errors of the database.
pub async fn abandon_request(connection: &mut PgConnection, request: &Request) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_requests set claimed_until = '-infinity' where key = $1 and claim = $2::uuid and status is null",
    )
    .bind(&request.key)
    .bind(&request.claim)
    .execute(connection)
    .await?;
    Ok(())
}

/// How long answers are kept for the same request again.
const KEPT: Duration = Duration::from_hours(24);

/// The most rows that are deleted at a time.
const DELETED_MAX: i64 = 10_000;

/// Deletes answers that are older than a day, some at a time. Returns how many were deleted.
///
/// # Errors
/// Errors of the database.
pub async fn delete_old_requests(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "delete from api_requests where key = any(array(
             select key from api_requests where created_at < statement_timestamp() - $1 * interval '1 second' limit $2))",
    )
    .bind(KEPT.as_secs_f64())
    .bind(DELETED_MAX)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
