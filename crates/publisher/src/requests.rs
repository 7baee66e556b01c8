//! Requests that carry an idempotency key: done once, answered the same each time. What the header `Idempotency-Key` of
//! the IETF's draft asks for (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

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
    /// Somebody is at it.
    InFlight,
    /// Another request was made under this key.
    OtherRequest,
}

/// A request that was taken up, by whoever holds this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    key: String,
    claim: String,
    /// Whoever was at it before has committed what was asked for, and not lived to answer: only that is left to do.
    changed: bool,
}

/// A change of orders, in a transaction that also says so of the request that it is made for: a request whose change was
/// committed is not made a second time.
pub struct Change<'a> {
    transaction: Transaction<'a, Postgres>,
    request: Option<&'a Request>,
}

impl<'a> Change<'a> {
    /// Begins. `None`: it was made for this request already, by somebody who has not lived to answer.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn begin(pool: &PgPool, request: Option<&'a Request>) -> Result<Option<Self>, sqlx::Error> {
        if request.is_some_and(|request| request.changed) {
            return Ok(None);
        }
        Ok(Some(Self { transaction: pool.begin().await?, request }))
    }

    /// Where the change is made.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Makes it so. Without this, nothing was changed.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        if let Some(request) = self.request {
            let marked = sqlx::query("update api_requests set changed = true where key = $1 and claim = $2::uuid")
                .bind(&request.key)
                .bind(&request.claim)
                .execute(&mut *self.transaction)
                .await?;
            // Somebody else has taken it over, and will make the change.
            if marked.rows_affected() != 1 {
                return Err(sqlx::Error::RowNotFound);
            }
        }
        self.transaction.commit().await
    }
}

/// Takes a request up, unless it was taken up before. `fingerprint` tells it from others. Whoever takes it up and does
/// not finish within `lease` is presumed dead, and the next one may.
///
/// # Errors
/// Whatever the database says.
pub async fn claim_request(pool: &PgPool, key: &str, fingerprint: &str, lease: Duration) -> Result<Claim, sqlx::Error> {
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
    .fetch_optional(pool)
    .await?;
    if let Some((claim, changed)) = claimed {
        return Ok(Claim::Yours(Request { key: key.to_owned(), claim, changed }));
    }
    let known: Option<(String, Option<i32>, Option<String>)> =
        sqlx::query_as("select fingerprint, status, body from api_requests where key = $1")
            .bind(key)
            .fetch_optional(pool)
            .await?;
    Ok(match known {
        Some((known, ..)) if known != fingerprint => Claim::OtherRequest,
        Some((_, Some(status), Some(body))) => Claim::Done { status: u16::try_from(status).unwrap_or(500), body },
        // Deleted at this very moment, or in hand.
        _ => Claim::InFlight,
    })
}

/// Keeps the answer for whoever asks the same again, unless somebody has taken the request over.
///
/// # Errors
/// Whatever the database says.
pub async fn finish_request(pool: &PgPool, request: &Request, status: u16, body: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_requests set status = $3, body = $4 where key = $1 and claim = $2::uuid and status is null",
    )
    .bind(&request.key)
    .bind(&request.claim)
    .bind(i32::from(status))
    .bind(body)
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives a request up that came to nothing, or that could not be answered: the next one may take it up at once.
///
/// # Errors
/// Whatever the database says.
pub async fn abandon_request(pool: &PgPool, request: &Request) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_requests set claimed_until = '-infinity' where key = $1 and claim = $2::uuid and status is null",
    )
    .bind(&request.key)
    .bind(&request.claim)
    .execute(pool)
    .await?;
    Ok(())
}
