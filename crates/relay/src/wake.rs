use std::time::Duration;

use database::SqlxPool;
use futures_util::FutureExt;
use sqlx::postgres::PgListener;

/// Waits for work: for a notification of an insert into the outbox, or for the next poll.
pub(crate) struct Waker {
    pool: SqlxPool,
    poll: Duration,
    listener: Option<PgListener>,
}

/// The channel on which the trigger `outbox_wakes_relay` notifies.
const CHANNEL: &str = "overdue_outbox";

/// How long rows gather after a notification: each pass costs the database the same, however few it finds.
const GATHER: Duration = Duration::from_millis(50);

impl Waker {
    /// A waker that does not listen yet.
    pub(crate) fn new(pool: SqlxPool, poll: Duration) -> Self {
        Self { pool, poll, listener: None }
    }

    /// Until a notification arrives and rows had time to gather, or the poll is due.
    pub(crate) async fn work(&mut self) {
        if self.listener.is_none() {
            self.listener = self.listen().await;
            if self.listener.is_some() {
                // Rows that were inserted before the listener stood sent no notification to it.
                return;
            }
        }
        let Some(listener) = &mut self.listener else { return tokio::time::sleep(self.poll).await };
        match tokio::time::timeout(self.poll, listener.recv()).await {
            Err(_) => {}
            Ok(Ok(_)) => {
                tokio::time::sleep(GATHER).await;
                // One look at the outbox answers all that have arrived.
                while listener.recv().now_or_never().is_some_and(|received| received.is_ok()) {}
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the relay cannot listen for notifications; it polls until it can");
                self.listener = None;
                tokio::time::sleep(self.poll).await;
            }
        }
    }

    async fn listen(&self) -> Option<PgListener> {
        let listener = self.pool.listen(CHANNEL).await;
        listener.inspect_err(|error| tracing::warn!(%error, "the relay cannot listen for notifications; it polls")).ok()
    }
}
