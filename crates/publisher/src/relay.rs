use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use broker::{Broker, NotPublished, Outgoing, Publisher, wire};
use order::{Deadline, Lanes, OrderId, coalesce};
use retry::Policy;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool, Postgres};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// How the relay works.
#[derive(Debug, Clone, Copy)]
pub struct RelaySettings {
    /// Orders due within this time of each other may share a message; all of them come out at the latest of
    /// their deadlines. Also how long the relay lets orders gather after it was woken.
    pub window: Duration,
    /// How many orders are claimed at a time, at most.
    pub claim_orders_max: i64,
    /// After this time a claim is void: its relay is presumed dead and the orders are sent by another. Must
    /// exceed the publisher's confirm timeout.
    pub lease: Duration,
    /// How often the outbox is looked at although nothing was notified.
    pub poll: Duration,
    /// How long the database may take to answer before its connection is given up as dead. Longer than its
    /// own statement timeout.
    pub answer_timeout: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            window: Duration::from_millis(50),
            claim_orders_max: 8192,
            lease: Duration::from_secs(20),
            poll: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(35),
        }
    }
}

/// What a relay has done since its start.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// Orders whose timeout the broker has confirmed.
    pub orders: AtomicU64,
    /// Messages that carried them.
    pub messages: AtomicU64,
    /// Messages that were not confirmed, or came back.
    pub failures: AtomicU64,
}

/// The loop that sends the outbox to RabbitMQ: claim, publish, wait for the confirms, delete. Any number of
/// relays may run at once.
///
/// A relay that dies between confirm and delete leaves its claim behind; when the lease is over another relay
/// sends the same orders again, which does no harm.
pub struct Relay {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
    publisher: Publisher,
    lanes: Lanes,
    settings: RelaySettings,
    counters: Arc<RelayCounters>,
}

/// A row of the outbox that this relay has claimed.
struct Claimed {
    row: i64,
    order: OrderId,
    due: Deadline,
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database did not answer within {0} ms")]
    Silent(u128),
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
}

/// When orders are tried again that the broker did not take.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Relay {
    /// The channel on which inserts into the outbox notify.
    const NOTIFICATIONS: &'static str = "overdue_outbox";

    /// A relay. `confirm_timeout` bounds the wait for the broker; it must be shorter than the lease.
    #[must_use]
    pub fn new(pool: PgPool, broker: Broker, lanes: Lanes, settings: RelaySettings, confirm_timeout: Duration) -> Self {
        let publisher = Publisher::new(broker, "relay", confirm_timeout);
        Self { pool, connection: None, publisher, lanes, settings, counters: Arc::default() }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<RelayCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until `shutdown`; then finishes what is on the way. Trouble with either server is waited out.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut delays = Policy::RECONNECT.delays();
        let mut listener = None;
        while !shutdown.is_cancelled() {
            let wait = match self.pass().await {
                // There may be more.
                Ok(claimed) if claimed == self.settings.claim_orders_max => continue,
                Ok(_) => {
                    delays.reset();
                    None
                }
                Err(error) => {
                    let delay = delays.next_delay();
                    tracing::warn!(%error, retry_in_ms = delay.as_millis(), "the relay could not send what is in the outbox");
                    Some(delay)
                }
            };
            let woken = async {
                match wait {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => self.wait_for_work(&mut listener).await,
                }
            };
            tokio::select! {
                () = woken => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.publisher.close().await;
    }

    /// Claims, publishes and deletes once. Returns how many rows were claimed.
    async fn pass(&mut self) -> Result<i64, RelayError> {
        // Kept from pass to pass: handing it back, and taking it out again, would wait for it to answer.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        let outcome = self.pass_on(&mut connection).await;
        match outcome {
            Err(RelayError::Silent(_) | RelayError::Database(_)) => drop(connection.detach()),
            _ => self.connection = Some(connection),
        }
        outcome
    }

    async fn pass_on(&mut self, connection: &mut PgConnection) -> Result<i64, RelayError> {
        let (claimed, now) = self.answered(claim(connection, &self.settings)).await?;
        let count = claimed.len();
        if count == 0 {
            return Ok(0);
        }
        let groups = coalesce(claimed, |claimed| claimed.due, now.read(), self.settings.window, wire::ORDERS_MAX);
        let messages: Vec<Outgoing> = groups.iter().map(|group| message(group, &self.lanes, now.read())).collect();
        let fates = self.publisher.publish(&messages).await;

        let (mut sent, mut refused, mut unsent) = (Vec::with_capacity(count), Vec::new(), Vec::new());
        let mut failure = None;
        for (group, fate) in groups.iter().zip(fates) {
            let rows = group.iter().map(|claimed| claimed.row);
            match fate {
                Ok(()) => {
                    sent.extend(rows);
                    add(&self.counters.messages, 1);
                    continue;
                }
                // Something about this lane: the others must not wait for it.
                Err(error @ (NotPublished::Unroutable(_) | NotPublished::Refused)) => {
                    tracing::warn!(%error, orders = group.len(), "a message was not taken; its orders stay in the outbox");
                    refused.extend(rows);
                }
                Err(error) => {
                    unsent.extend(rows);
                    failure = Some(error);
                }
            }
            add(&self.counters.failures, 1);
        }
        self.answered(delete(connection, &sent)).await?;
        add(&self.counters.orders, sent.len());
        self.answered(release(connection, &refused, REFUSED_AGAIN_AFTER)).await?;
        self.answered(release(connection, &unsent, Duration::ZERO)).await?;
        tracing::debug!(orders = sent.len(), messages = messages.len(), "sent");
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(i64::try_from(count).unwrap_or(i64::MAX)),
        }
    }

    /// A connection may be dead without anybody having said so.
    async fn answered<T>(&self, statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RelayError> {
        let limit = self.settings.answer_timeout;
        let answer = tokio::time::timeout(limit, statement).await.map_err(|_| RelayError::Silent(limit.as_millis()))?;
        Ok(answer?)
    }

    /// Until a notification arrives (and then a little longer, so that orders can gather) or the poll is due.
    async fn wait_for_work(&self, listener: &mut Option<PgListener>) {
        if listener.is_none() {
            *listener = self.listen().await;
            if listener.is_some() {
                // What was inserted before the listener stood was notified to nobody.
                return;
            }
        }
        let Some(live) = listener else { return tokio::time::sleep(self.settings.poll).await };
        match tokio::time::timeout(self.settings.poll, live.recv()).await {
            Err(_) => {}
            Ok(Ok(_)) => {
                tokio::time::sleep(self.settings.window).await;
                // One look at the outbox answers all that have arrived.
                while live.recv().now_or_never().is_some_and(|received| received.is_ok()) {}
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the relay cannot listen for notifications; it polls until it can");
                *listener = None;
                tokio::time::sleep(self.settings.poll).await;
            }
        }
    }

    async fn listen(&self) -> Option<PgListener> {
        let listener = async {
            let mut listener = PgListener::connect_with(&self.pool).await?;
            listener.listen(Self::NOTIFICATIONS).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        listener
            .await
            .inspect_err(|error| tracing::warn!(%error, "the relay cannot listen for notifications; it polls"))
            .ok()
    }
}

/// Takes rows that nobody is at. A claim is a mark with an end and not a lock: no transaction may stay open
/// while the broker is waited for.
async fn claim(
    connection: &mut PgConnection,
    settings: &RelaySettings,
) -> Result<(Vec<Claimed>, DatabaseTime), sqlx::Error> {
    let rows: Vec<(i64, String, OffsetDateTime, OffsetDateTime)> = sqlx::query_as(
        // By ctid, which leads to the rows whatever the planner believes of an outbox that was empty a moment
        // ago: joined in as a subquery, the choice may be run anew for each row, limit and all.
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox where claimed_until is null or claimed_until < clock_timestamp()
             order by id limit $1 for update skip locked))
         returning o.id, o.order_id, o.due_at, clock_timestamp()",
    )
    .bind(settings.claim_orders_max)
    .bind(milliseconds(settings.lease))
    .fetch_all(connection)
    .await?;
    let now = DatabaseTime::of(rows.last().map(|(.., now)| *now));
    let mut claimed = Vec::with_capacity(rows.len());
    for (row, order, due, _) in rows {
        match OrderId::new(&order) {
            Ok(order) => claimed.push(Claimed { row, order, due: Deadline::at(due) }),
            // The table's CHECK does not let such a row in. Should it be gone: the others must not suffer.
            Err(error) => tracing::error!(outbox_id = row, %error, "a row of the outbox names no order; it stays"),
        }
    }
    Ok((claimed, now))
}

async fn delete(connection: &mut PgConnection, rows: &[i64]) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        sqlx::query("delete from outbox where id = any($1)").bind(rows).execute(connection).await?;
    }
    Ok(())
}

/// Gives claims back before the lease ends: to be taken again after a while, or at once.
async fn release(connection: &mut PgConnection, rows: &[i64], after: Duration) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        let statement =
            "update outbox set claimed_until = clock_timestamp() + $2 * interval '1 millisecond' where id = any($1)";
        sqlx::query(statement).bind(rows).bind(milliseconds(after)).execute(connection).await?;
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// The database's clock, carried on by this machine's: what is remaining of a deadline must not depend on how
/// the clocks of two machines differ.
#[derive(Clone, Copy)]
struct DatabaseTime {
    at_receipt: OffsetDateTime,
    receipt: Instant,
}

impl DatabaseTime {
    /// Without a row there is nothing to be sent, and the time is not needed.
    fn of(now: Option<OffsetDateTime>) -> Self {
        Self { at_receipt: now.unwrap_or(OffsetDateTime::UNIX_EPOCH), receipt: Instant::now() }
    }

    fn read(self) -> OffsetDateTime {
        self.at_receipt + self.receipt.elapsed()
    }
}

/// One message for the group. It comes out when the last of its orders falls due: one that came out earlier
/// would have to wait once more.
fn message(group: &[Claimed], lanes: &Lanes, now: OffsetDateTime) -> Outgoing {
    let remaining = group.last().map_or(Duration::ZERO, |latest| latest.due.remaining(now));
    let orders: Vec<_> = group.iter().map(|claimed| (claimed.order.clone(), claimed.due)).collect();
    Outgoing::payment_timeout(&orders, lanes.choose(remaining))
}
