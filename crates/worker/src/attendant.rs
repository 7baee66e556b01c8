//! Takes messages that were set aside out of their queue into the table, where a person can look at them.

use std::time::{Duration, Instant};

use book::{BookError, ParkedTable, Parking};
use broker::{Broker, BrokerError, ParkedMessage, ParkedQueue, Publisher};
use order::TimeoutId;
use retry::Policy;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::patience::{Interrupted, Patience};

/// Attends to the parked queue. A message leaves it only when the database has it.
pub struct Attendant {
    broker: Broker,
    table: ParkedTable,
    publisher: Publisher,
    patience: Patience,
    tidied_at: Option<Instant>,
    cleared_at: Instant,
    /// The message after which the next look at those whose orders may have settled begins.
    clear_after: i64,
}

/// How often what is done with is deleted.
const TIDY_EVERY: Duration = Duration::from_hours(1);

/// How often some messages are looked at whose orders may have settled in another way, and how many.
const CLEAR_EVERY: Duration = Duration::from_secs(5);
const CLEAR_MESSAGES_MAX: i64 = 500;

/// How long a command waits for more messages before it takes the queue for empty, and how long it goes on at the most.
const QUIET: Duration = Duration::from_millis(300);
const TAKE_IN_MAX: Duration = Duration::from_secs(10);

impl Attendant {
    /// An attendant that has not begun.
    #[must_use]
    pub fn new(broker: Broker, table: ParkedTable, confirm_timeout: Duration, shutdown: CancellationToken) -> Self {
        let publisher = Publisher::new(broker.clone(), "unreadable", confirm_timeout);
        let patience = Patience::endless(shutdown, prometheus_client::metrics::counter::Counter::default());
        Self { broker, table, publisher, patience, tidied_at: None, cleared_at: Instant::now(), clear_after: 0 }
    }

    /// Works until told to stop. While the database is away messages stay in the queue.
    pub async fn run(mut self) {
        let mut delays = Policy::RECONNECT.delays();
        while self.is_ready().await.is_ok() {
            let ended = match ParkedQueue::open(&self.broker).await {
                Ok(mut queue) => {
                    delays.reset();
                    let ended = self.work(&mut queue).await;
                    queue.close().await;
                    ended
                }
                Err(error) => Err(error.to_string()),
            };
            if self.patience.shutdown().is_cancelled() {
                break;
            }
            if let Err(error) = ended
                && self.patience.pause(&mut delays, "the parked queue is not attended to", &error).await.is_err()
            {
                break;
            }
        }
        self.publisher.close().await;
    }

    /// Takes in what is in the queue now. For commands, where no process attends.
    ///
    /// # Errors
    /// [`BrokerError`] or [`BookError`], in words: what was not taken in is in the queue still.
    pub async fn take_in(mut self) -> Result<(), String> {
        let mut queue = ParkedQueue::open(&self.broker).await.map_err(|error: BrokerError| error.to_string())?;
        let begun = Instant::now();
        let outcome = loop {
            let messages = queue.receive_within(QUIET).await.unwrap_or_default();
            if messages.is_empty() || begun.elapsed() > TAKE_IN_MAX {
                break Ok(());
            }
            if let Err(error) = self.store(&messages).await {
                break Err(error.to_string());
            }
            if let Err(error) = queue.ack(&messages).await {
                break Err(error.to_string());
            }
        };
        queue.close().await;
        self.publisher.close().await;
        outcome
    }

    async fn is_ready(&self) -> Result<(), Interrupted> {
        let ready = || self.table.ready();
        self.patience.until("parked messages cannot be stored", |_| false, ready).await.map(drop)
    }

    async fn work(&mut self, queue: &mut ParkedQueue) -> Result<(), String> {
        let shutdown = self.patience.shutdown().clone();
        loop {
            self.tidy().await;
            self.clear().await;
            let received = tokio::select! {
                received = queue.receive() => received,
                () = tokio::time::sleep(CLEAR_EVERY) => continue,
                () = shutdown.cancelled() => return Ok(()),
            };
            let messages = received.ok_or("the subscription has ended")?;
            self.store(&messages).await.map_err(|error| error.to_string())?;
            queue.ack(&messages).await.map_err(|error| error.to_string())?;
            tracing::warn!(
                messages = messages.len(),
                reason = messages[0].reason,
                "messages wait for a person; `overdue parked list` shows them"
            );
        }
    }

    /// All of them at once; where the database refuses that, one by one. What it refuses even alone goes into a queue
    /// of its own, unless the table takes nothing: then all stay where they are. What has to wait for another
    /// transaction stays, too.
    async fn store(&mut self, messages: &[ParkedMessage]) -> Result<(), BookError> {
        let parkings: Vec<Parking> = messages.iter().map(parking).collect();
        match self.table.add(&parkings).await {
            Err(BookError::Refused(_) | BookError::Slow(_)) => {}
            done => return done,
        }
        for (message, parking) in messages.iter().zip(parkings) {
            match self.table.add(std::slice::from_ref(&parking)).await {
                Err(error @ BookError::Refused(_)) => {
                    self.table.ready().await?;
                    tracing::error!(%error, "a message cannot be stored in the table of parked messages; it goes into the queue overdue.v1.unreadable");
                    let published = self.publisher.publish_all(&[message.unreadable()]).await;
                    published.map_err(|error| BookError::Away(error.to_string()))?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn tidy(&mut self) {
        if self.tidied_at.is_none_or(|at| at.elapsed() > TIDY_EVERY) {
            self.tidied_at = Some(Instant::now());
            if let Err(error) = self.table.tidy().await {
                tracing::warn!(%error, "parked messages that are done with cannot be deleted");
            }
        }
    }

    /// Drops messages whose orders have settled in another way: no person is needed for them any more.
    async fn clear(&mut self) {
        if self.cleared_at.elapsed() < CLEAR_EVERY {
            return;
        }
        self.cleared_at = Instant::now();
        match self.table.clear_settled(self.clear_after, CLEAR_MESSAGES_MAX).await {
            Ok((dropped, next)) => {
                self.clear_after = next.unwrap_or(0);
                if dropped > 0 {
                    tracing::info!(
                        messages = dropped,
                        "parked messages were dropped: their orders have settled in another way"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "parked messages whose orders have settled cannot be dropped"),
        }
    }
}

fn parking(message: &ParkedMessage) -> Parking {
    Parking {
        reason: message.reason.clone(),
        detail: message.detail.clone(),
        orders: message.ids.iter().map(TimeoutId::to_string).collect(),
        routing_key: message.routing_key.clone(),
        properties: message.properties.clone(),
        headers: message.headers.clone(),
        body: message.body.clone(),
        attempts: message.attempts.made,
        history: message.attempts.history.clone(),
        at: message.parked_at.unwrap_or_else(OffsetDateTime::now_utc),
    }
}
