//! Deletes what is too old of what processes and operators write down. The process that leads the sweep does it, beside
//! everything else.

use std::time::Duration;

use book::{BookError, OperatorActions, Processes};
use database::Client;
use tokio_util::task::AbortOnDropHandle;
use trace::Throttle;
use worker::WorkerMetrics;

const EVERY: Duration = Duration::from_secs(60);

/// Between two parts of what is deleted, others come to their turn.
const PAUSE: Duration = Duration::from_millis(50);

/// Begins at once, and goes on as long as what it returns lives. `leads`: where it is told whether this process leads
/// the sweep.
pub(super) fn begin(client: Client, leads: WorkerMetrics) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let warnings = Throttle::default();
        loop {
            tokio::time::sleep(EVERY).await;
            if leads.sweep_leader.get() > 0
                && let Err(error) = tidy(&client).await
                && let Some(more) = warnings.lets_through("tidy")
            {
                tracing::warn!(%error, more, "what is too old cannot be deleted");
            }
        }
    }))
}

/// All that is too old, part by part.
async fn tidy(client: &Client) -> Result<(), BookError> {
    Processes::new(client.clone()).tidy().await?;
    OperatorActions::new(client.clone()).tidy().await?;
    while book::tidy_trail(client).await? {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
