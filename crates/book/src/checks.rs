//! What doctor and audit found when an operator last had them run.

use std::time::Duration;

use database::Client;
use time::OffsetDateTime;
use tokio_postgres::Row;

use crate::BookError;
use crate::postgres::is_bad;

/// The table of checks in a database.
#[derive(Clone)]
pub struct Checks {
    client: Client,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRow {
    /// When it ended.
    pub ran_at: OffsetDateTime,
    /// Who had it run.
    pub ran_by: String,
    /// How long it took.
    pub took: Duration,
    /// What it found, as JSON.
    pub report: String,
}

impl Checks {
    /// The table in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the check of this name found last; `None`: it was never run.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn last(&self, name: &str) -> Result<Option<CheckRow>, BookError> {
        let row = self.client.within(is_bad, async |client| {
            let last = "select ran_at, ran_by, took_ms, report::text as report from checks where name = $1";
            client.query_opt(&client.prepare_cached(last).await?, &[&name]).await
        });
        let check = |row: &Row| {
            Ok(CheckRow {
                ran_at: row.try_get("ran_at")?,
                ran_by: row.try_get("ran_by")?,
                took: Duration::from_millis(row.try_get::<_, i64>("took_ms")?.unsigned_abs()),
                report: row.try_get("report")?,
            })
        };
        row.await?.as_ref().map(check).transpose()
    }

    /// Keeps what a check found, in the place of what it found before.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn keep(&self, name: &str, by: &str, took: Duration, report: &str) -> Result<(), BookError> {
        let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let kept = self.client.within(is_bad, async |client| {
            let keep = "insert into checks (name, ran_by, took_ms, report) values ($1, $2, $3, $4::text::jsonb)
                        on conflict (name) do update
                        set ran_at = clock_timestamp(), ran_by = excluded.ran_by, took_ms = excluded.took_ms, report = excluded.report";
            client.execute(keep, &[&name, &by, &took_ms, &report]).await
        });
        kept.await?;
        Ok(())
    }
}
