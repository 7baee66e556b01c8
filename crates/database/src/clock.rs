use std::time::Instant;

use sqlx::PgConnection;
use time::OffsetDateTime;

/// A server's time, carried on by this machine's monotonic clock. The time that is left until a deadline must not depend
/// on how the clocks of two machines differ.
#[derive(Debug, Clone, Copy)]
pub struct ServerTime {
    read: OffsetDateTime,
    at: Instant,
}

impl ServerTime {
    /// `read` was the server's time just now.
    #[must_use]
    pub fn from(read: OffsetDateTime) -> Self {
        Self { read, at: Instant::now() }
    }

    /// The server's time now.
    #[must_use]
    pub fn now(self) -> OffsetDateTime {
        self.read + self.at.elapsed()
    }
}

/// The server's time.
///
/// # Errors
/// Errors of the database.
pub async fn read_clock(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await
}
