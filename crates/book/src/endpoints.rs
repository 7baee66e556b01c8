use database::Client;
use serde::Serialize;
use time::OffsetDateTime;

use crate::BookError;
use crate::postgres::is_bad;

/// The endpoints that are sent nothing until an operator says go on.
#[derive(Clone)]
pub struct StoppedEndpoints {
    client: Client,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoppedEndpoint {
    /// Its name.
    pub name: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub stopped_at: OffsetDateTime,
    /// Why.
    pub reason: String,
    /// By a part of the program, or a person.
    pub stopped_by: String,
}

impl StoppedEndpoints {
    /// Those in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// All of them, by their names.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn all(&self) -> Result<Vec<StoppedEndpoint>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let all = "select name, stopped_at, reason, stopped_by from webhook_endpoints order by name";
            let all = client.prepare_cached(all).await?;
            client.query(&all, &[]).await
        });
        let endpoint = |row: &tokio_postgres::Row| {
            Ok(StoppedEndpoint {
                name: row.try_get("name")?,
                stopped_at: row.try_get("stopped_at")?,
                reason: row.try_get("reason")?,
                stopped_by: row.try_get("stopped_by")?,
            })
        };
        let endpoints: Result<_, tokio_postgres::Error> = rows.await?.iter().map(endpoint).collect();
        Ok(endpoints?)
    }

    /// Stops an endpoint, and announces that, unless it is stopped already. Returns whether it was not.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn stop(&self, name: &str, reason: &str, by: &str) -> Result<bool, BookError> {
        let stopped = self.client.within(is_bad, async |client| {
            let stop = "with stopped as (
                     insert into webhook_endpoints (name, reason, stopped_by) values ($1, $2, $3)
                     on conflict (name) do nothing
                     returning name, stopped_at, reason, stopped_by
                 )
                 insert into outbox (order_id, due_at, traceparent, event, event_id, data)
                 select e.* from stopped, overdue_event('endpoint.stopped', stopped.name,
                     concat_ws(':', 'endpoint', stopped.name, extract(epoch from stopped.stopped_at)), stopped.stopped_at, null, null, null,
                     fact_at => stopped.stopped_at, reason => stopped.reason, actor => stopped.stopped_by) e";
            let stop = client.prepare_cached(stop).await?;
            client.execute(&stop, &[&name, &reason, &by]).await
        });
        Ok(stopped.await? > 0)
    }

    /// Lets an endpoint go on. Returns whether it was stopped.
    ///
    /// # Errors
    /// [`BookError`].
    pub async fn resume(&self, name: &str) -> Result<bool, BookError> {
        let resumed = self.client.within(is_bad, async |client| {
            client.execute("delete from webhook_endpoints where name = $1", &[&name]).await
        });
        Ok(resumed.await? > 0)
    }
}
