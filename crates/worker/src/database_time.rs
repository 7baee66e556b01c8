use std::time::Instant;

use time::OffsetDateTime;

/// The database's time, carried on by this machine's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DatabaseTime {
    read: OffsetDateTime,
    at: Instant,
}

impl DatabaseTime {
    /// `read` was the time just now.
    pub(crate) fn from(read: OffsetDateTime) -> Self {
        Self { read, at: Instant::now() }
    }

    pub(crate) fn now(self) -> OffsetDateTime {
        self.read + self.at.elapsed()
    }
}
