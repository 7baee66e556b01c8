use std::time::{Duration, Instant};

use broker::{Broker, NotPublished, Publisher};
use database::{DatabaseError, STATEMENT_TIMEOUT, SqlxConnection, SqlxPool, answer_timeout};
use order::{COALESCE_WINDOW, Lanes};
use retry::Policy;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use trace::Throttle;

use crate::claim::{self, Claimed, Unsendable, claim_events, claim_timeouts, delete, oversized_events, release};
use crate::event_flow::EventFlow;
use crate::frontier::Frontier;
use crate::pace::Pace;
use crate::timeouts::Load;
use crate::trail::{self, Told, TrailLimit};
use crate::{RelayMetrics, events, timeouts};

/// How the relay works.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Orders due within this time of each other may share a message; all of them come out at the latest of
    /// their deadlines.
    pub window: Duration,
    /// What events call their source: a URI reference.
    pub event_source: String,
    /// How long the broker may take to confirm. Must be shorter than the lease.
    pub confirm_timeout: Duration,
    /// After this time a claim is void: its relay is presumed dead, and another sends the same rows.
    pub lease: Duration,
    /// How many timeouts are claimed at a time.
    pub claim_orders_max: usize,
    /// How long the database may take to answer before its connection is given up as dead. Longer than its
    /// own statement timeout.
    pub answer_timeout: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            window: COALESCE_WINDOW,
            event_source: "/overdue".to_owned(),
            confirm_timeout: Publisher::CONFIRM_TIMEOUT,
            lease: Duration::from_secs(20),
            claim_orders_max: 8192,
            answer_timeout: answer_timeout(STATEMENT_TIMEOUT),
        }
    }
}

/// The loop that sends the outbox to RabbitMQ: claim, publish, wait for the confirms, delete. Any number of
/// relays may run at once.
///
/// A relay that dies between confirm and delete leaves its claim behind. When the lease is over another relay
/// sends the same orders again, which does no harm.
pub struct Relay {
    pool: SqlxPool,
    broker: Broker,
    lanes: Lanes,
    settings: RelaySettings,
    metrics: RelayMetrics,
    trail: TrailLimit,
}

/// Half a relay. Timeouts and events go separate ways, so that an event that the broker does not take, or a hundred
/// thousand of them, hold up no timeout.
struct Forwarder {
    rows: RowKind,
    pool: SqlxPool,
    connection: Option<SqlxConnection>,
    publisher: Publisher,
    lanes: Lanes,
    settings: RelaySettings,
    metrics: RelayMetrics,
    frontier: Frontier,
    events: EventFlow,
    trail: TrailLimit,
    warnings: Throttle,
}

/// Which rows of the outbox a forwarder sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowKind {
    Timeouts,
    Events,
}

/// How many events are claimed at a time, and those that share a row with the last of them.
const CLAIM_EVENTS: usize = 512;

/// When rows are tried again that the broker did not take.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What a pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// As many rows as it takes at a time: there may be more.
    Full,
    Some,
    Nothing,
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Unreachable(#[from] DatabaseError),
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database did not answer within {0} ms")]
    Silent(u128),
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
}

impl Relay {
    /// How many connections to the database a relay uses, for timeouts and for events.
    pub const CONNECTIONS: usize = 2;

    /// A relay that has not begun.
    #[must_use]
    pub fn new(pool: SqlxPool, broker: Broker, lanes: Lanes, settings: RelaySettings) -> Self {
        Self { pool, broker, lanes, settings, metrics: RelayMetrics::default(), trail: TrailLimit::default() }
    }

    /// What it has done. May be read while it runs.
    #[must_use]
    pub fn metrics(&self) -> RelayMetrics {
        self.metrics.clone()
    }

    /// Works until `shutdown`; then finishes what is on the way. It waits out trouble with either server.
    pub async fn run(self, shutdown: CancellationToken) {
        let timeouts = self.forwarder(RowKind::Timeouts, "relay").run(shutdown.clone());
        let events = self.forwarder(RowKind::Events, "events").run(shutdown);
        futures_util::future::join(timeouts, events).await;
    }

    fn forwarder(&self, rows: RowKind, purpose: &'static str) -> Forwarder {
        Forwarder {
            rows,
            pool: self.pool.clone(),
            connection: None,
            publisher: Publisher::new(self.broker.clone(), purpose, self.settings.confirm_timeout),
            lanes: self.lanes.clone(),
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
            frontier: Frontier::default(),
            events: EventFlow::default(),
            trail: self.trail.clone(),
            warnings: Throttle::default(),
        }
    }
}

impl Forwarder {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut delays = Policy::RECONNECT.delays();
        let mut pace = Pace::new();
        while !shutdown.is_cancelled() {
            let begun = Instant::now();
            let wait = match self.pass().await {
                Ok(Found::Full) => match self.rows {
                    RowKind::Timeouts => continue,
                    RowKind::Events => self.events.rest_after(begun.elapsed()),
                },
                Ok(found) => {
                    delays.reset();
                    pace.after(found == Found::Some)
                }
                Err(error) => {
                    let delay = delays.next_delay();
                    tracing::warn!(%error, retry_in_ms = delay.as_millis(), "the relay could not send what is in the outbox");
                    delay
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.publisher.close().await;
    }

    /// Claims, publishes and deletes once.
    async fn pass(&mut self) -> Result<Found, RelayError> {
        // Kept from pass to pass: handing it back, and taking it out again, would wait for it to answer.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.get().await?,
        };
        let outcome = self.forward(&mut connection).await;
        match outcome {
            Err(RelayError::Silent(_) | RelayError::Database(_)) => connection.discard(),
            _ => self.connection = Some(connection),
        }
        outcome
    }

    async fn forward(&mut self, connection: &mut PgConnection) -> Result<Found, RelayError> {
        let (loads, found) = self.claim(connection).await?;
        if loads.is_empty() {
            return Ok(found);
        }
        let (mut carried, mut messages) = (Vec::with_capacity(loads.len()), Vec::new());
        for load in loads {
            carried.push((load.rows, load.messages.len(), load.told));
            messages.extend(load.messages);
        }
        let mut fates = self.publisher.publish(&messages).await.into_iter();

        let (mut sent, mut refused, mut unsent, mut told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut events, mut failure) = (0, None);
        for (rows, count, told_of_it) in carried {
            let failures: Vec<NotPublished> = fates.by_ref().take(count).filter_map(Result::err).collect();
            self.metrics.messages.inc_by((count - failures.len()) as u64);
            self.metrics.failures.inc_by(failures.len() as u64);
            match failures.into_iter().next() {
                None => {
                    events += count;
                    sent.extend(rows);
                    told.extend(told_of_it);
                }
                // The fault of this lane: the others must not wait for it.
                Some(error @ (NotPublished::Unroutable(_) | NotPublished::Refused)) => {
                    tracing::warn!(%error, rows = rows.len(), "a message was not taken; what it carries stays in the outbox");
                    refused.extend(rows);
                }
                Some(error) => {
                    unsent.extend(rows);
                    failure = Some(error);
                }
            }
        }
        self.answered(delete(connection, &sent)).await?;
        match self.rows {
            RowKind::Timeouts => self.metrics.orders.inc_by(sent.len() as u64),
            RowKind::Events => self.metrics.events.inc_by(events as u64),
        };
        self.frontier.give_back(&refused);
        self.frontier.give_back(&unsent);
        self.answered(release(connection, &refused, REFUSED_AGAIN_AFTER)).await?;
        self.answered(release(connection, &unsent, Duration::ZERO)).await?;
        self.tell(connection, &told).await?;
        tracing::debug!(rows = ?self.rows, sent = sent.len(), messages = messages.len(), "sent");
        failure.map_or(Ok(found), |error| Err(error.into()))
    }

    /// Nothing depends on it that it is written down, and nothing waits for it.
    async fn tell(&self, connection: &mut PgConnection, told: &[Told]) -> Result<(), RelayError> {
        let step = if self.rows == RowKind::Timeouts { "relayed" } else { "announced" };
        match self.answered(trail::write(connection, step, told)).await {
            Err(RelayError::Database(error)) if error.as_database_error().is_some() => {
                self.trail.pause();
                if let Some(more) = self.warnings.lets_through("trail") {
                    tracing::warn!(%error, more, "what was sent cannot be written down");
                }
                Ok(())
            }
            told => told,
        }
    }

    /// Messages, each with the rows that it carries.
    async fn claim(&mut self, connection: &mut PgConnection) -> Result<(Vec<Load>, Found), RelayError> {
        let (begun, lease) = (Instant::now(), self.settings.lease);
        let above = self.frontier.begin(begun);
        let (count, is_full, last, loads) = match self.rows {
            RowKind::Timeouts => {
                let count_max = self.settings.claim_orders_max;
                let claiming = claim_timeouts(connection, above, count_max, lease);
                let Claimed { count, last, timeouts, unsendable, now } = self.answered(claiming).await?;
                self.park(connection, &unsendable).await?;
                let is_told = self.trail.lets_through(timeouts.len());
                let loads = timeouts::loads(timeouts, &self.lanes, self.settings.window, now.now(), is_told);
                (count, count >= count_max, last, loads)
            }
            RowKind::Events => {
                let claimed = self.answered(claim_events(connection, above, CLAIM_EVENTS, lease)).await?;
                let is_full = claimed.iter().map(|row| row.events).sum::<usize>() >= CLAIM_EVENTS;
                if is_full {
                    let newest = self.answered(claim::newest_event(connection)).await?;
                    let age = claimed.iter().map(|row| row.age).max().unwrap_or_default();
                    self.events.see(age, newest);
                } else if self.frontier.is_whole() {
                    // Those that are too large are passed over until the others are sent.
                    let oversized = self.answered(oversized_events(connection)).await?;
                    self.park(connection, &oversized).await?;
                }
                let is_told = self.trail.lets_through(claimed.iter().map(|row| row.events).sum());
                let (loads, unsendable) = events::loads(&claimed, &self.settings.event_source, is_told);
                self.park(connection, &unsendable).await?;
                let last = claimed.iter().map(|event| event.id).max();
                (claimed.len(), is_full, last, loads)
            }
        };
        self.frontier.end(Instant::now(), begun.elapsed(), last);
        let found = match count {
            0 => Found::Nothing,
            _ if is_full => Found::Full,
            _ => Found::Some,
        };
        Ok((loads, found))
    }

    async fn park(&self, connection: &mut PgConnection, rows: &[Unsendable]) -> Result<(), RelayError> {
        if let Some(Unsendable { detail, reason, .. }) = rows.first() {
            tracing::error!(rows = rows.len(), %reason, detail, "rows of the outbox cannot be sent; they are parked");
            self.answered(claim::park(connection, rows)).await?;
        }
        Ok(())
    }

    /// A connection may be dead without any sign of it.
    async fn answered<T>(&self, statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RelayError> {
        let limit = self.settings.answer_timeout;
        let answer = tokio::time::timeout(limit, statement).await.map_err(|_| RelayError::Silent(limit.as_millis()))?;
        Ok(answer?)
    }
}
