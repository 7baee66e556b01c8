use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use database::SqlxPool;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use shop::{OrderError, PgConnection};

/// A read replica of the database, for read-only requests. It may lag behind, so nothing is decided by what it says.
pub struct Replica {
    pool: SqlxPool,
    /// Until when it is left alone.
    rests_until: Mutex<Option<Instant>>,
}

/// How long the replica may take. The primary is asked then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a replica that did not answer is left alone.
const REST: Duration = Duration::from_secs(5);

impl Replica {
    /// The replica that these connections lead to.
    #[must_use]
    pub fn of(pool: SqlxPool) -> Self {
        Self { pool, rests_until: Mutex::new(None) }
    }

    /// The replica's answer. `None`: the primary must be asked, because the replica does not answer, or because the order
    /// may not have arrived there yet.
    pub(crate) async fn ask<T>(&self, read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, OrderError>) -> Option<T> {
        if self.rests_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|end| Instant::now() < end) {
            return None;
        }
        let end = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        let mut connection = match tokio::time::timeout_at(end, self.pool.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return self.rest(&error.to_string()),
            Err(_) => return self.rest("it does not answer"),
        };
        match tokio::time::timeout_at(end, read(&mut connection)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(OrderError::Unknown(_))) => None,
            Ok(Err(error)) => self.rest(&error.to_string()),
            Err(_) => {
                // An answer that comes later must not be taken for that to the next question.
                connection.discard();
                self.rest("it does not answer")
            }
        }
    }

    fn rest<T>(&self, error: &str) -> Option<T> {
        tracing::warn!(error, "the read replica cannot be asked; the primary is, for a while");
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
        None
    }
}

/// Whether the client wants the state of this moment, and nothing older
/// (<https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.4>).
pub(crate) fn wants_fresh(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("no-cache"))
}
