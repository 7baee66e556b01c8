//! Requests that carry an idempotency key: done once, answered the same each time. What the header `Idempotency-Key` of
//! the IETF's draft asks for (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use std::time::Duration;

use sqlx::PgPool;

/// What is known of a request under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is this caller's to do, and to answer by [`finish_request`].
    Yours,
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

/// Takes a request up, unless it was taken up before. `fingerprint` tells it from others. Whoever takes it up and does
/// not finish within `lease` is presumed dead, and the next one may.
///
/// # Errors
/// Whatever the database says.
pub async fn claim_request(pool: &PgPool, key: &str, fingerprint: &str, lease: Duration) -> Result<Claim, sqlx::Error> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let claimed = sqlx::query(
        "insert into api_requests (key, fingerprint, claimed_until)
         values ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
         on conflict (key) do update set claimed_until = excluded.claimed_until
         where api_requests.status is null and api_requests.claimed_until < clock_timestamp()
           and api_requests.fingerprint = excluded.fingerprint",
    )
    .bind(key)
    .bind(fingerprint)
    .bind(lease_ms)
    .execute(pool)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(Claim::Yours);
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

/// Keeps the answer for whoever asks the same again.
///
/// # Errors
/// Whatever the database says.
pub async fn finish_request(pool: &PgPool, key: &str, status: u16, body: &str) -> Result<(), sqlx::Error> {
    sqlx::query("update api_requests set status = $2, body = $3 where key = $1 and status is null")
        .bind(key)
        .bind(i32::from(status))
        .bind(body)
        .execute(pool)
        .await?;
    Ok(())
}

/// Gives a request up that came to nothing: the next one may try.
///
/// # Errors
/// Whatever the database says.
pub async fn abandon_request(pool: &PgPool, key: &str) -> Result<(), sqlx::Error> {
    sqlx::query("delete from api_requests where key = $1 and status is null").bind(key).execute(pool).await?;
    Ok(())
}
