use std::time::Duration;

use database::SqlxPool;
use tokio_util::sync::CancellationToken;

/// How often, varied at random by half.
const EVERY: Duration = Duration::from_mins(10);

/// Deletes answers that were kept for the same request again and are too old by now, from time to time, until `shutdown`.
pub async fn delete_old_answers(pool: SqlxPool, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        loop {
            let deleted = match pool.get().await {
                Ok(mut connection) => {
                    shop::delete_old_requests(&mut connection).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match deleted {
                Ok(0) => break,
                Ok(rows) => tracing::debug!(rows, "old answers were deleted"),
                Err(error) => {
                    tracing::warn!(error, "old answers cannot be deleted now");
                    break;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(retry::varied(EVERY)) => {}
            () = shutdown.cancelled() => {}
        }
    }
}
