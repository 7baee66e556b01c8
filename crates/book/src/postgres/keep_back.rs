use database::{Client, ServerTime};
use time::OffsetDateTime;
use trace::TraceParent;

use super::error::is_bad;
use crate::{BookError, KeptBack};

/// Rows of the outbox that a relay takes once their wait is over: until then they count as claimed.
pub(super) async fn keep_back(client: &Client, timeouts: &[KeptBack]) -> Result<ServerTime, BookError> {
    let ids: Vec<&str> = timeouts.iter().map(|timeout| timeout.id.as_str()).collect();
    let kinds: Vec<&str> = timeouts.iter().map(|timeout| timeout.kind.as_str()).collect();
    let dues: Vec<OffsetDateTime> = timeouts.iter().map(|timeout| timeout.due).collect();
    let waits: Vec<f64> = timeouts.iter().map(|timeout| timeout.wait.as_secs_f64()).collect();
    let traces: Vec<Option<&str>> =
        timeouts.iter().map(|timeout| timeout.trace.as_ref().map(TraceParent::as_str)).collect();
    let kept = client.within(is_bad, async |client| {
        let insert = client.prepare_cached(include_str!("keep_back.sql")).await?;
        client.query_one(&insert, &[&ids, &kinds, &dues, &waits, &traces]).await
    });
    Ok(ServerTime::from(kept.await?.try_get("now")?))
}
