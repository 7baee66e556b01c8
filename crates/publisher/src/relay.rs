use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use broker::{Broker, Event, NotPublished, Outgoing, Publisher, wire};
use order::{Deadline, Lanes, OrderId, Shard, TimeoutKind, coalesce};
use retry::Policy;
use serde_json::value::RawValue;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool, Postgres};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use trace::TraceParent;

/// How the relay works.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Orders due within this time of each other may share a message; all of them come out at the latest of
    /// their deadlines.
    pub window: Duration,
    /// How many orders are claimed at a time, at most.
    pub claim_orders_max: i64,
    /// What events call their source: a URI reference.
    pub event_source: String,
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
            window: Duration::from_millis(10),
            claim_orders_max: 8192,
            event_source: "/overdue".to_owned(),
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
    /// Events that the broker has confirmed.
    pub events: AtomicU64,
    /// Messages that carried either.
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
    broker: Broker,
    lanes: Lanes,
    settings: RelaySettings,
    confirm_timeout: Duration,
    counters: Arc<RelayCounters>,
}

/// How many connections to the database a relay uses: for timeouts and for events, one to work with and one to listen on.
pub const RELAY_CONNECTIONS: u32 = 4;

/// What a courier carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cargo {
    Timeouts,
    Events,
}

/// Half a relay. Timeouts and events go separate ways, so that an event that the broker does not take, or a hundred
/// thousand of them, hold up no timeout.
struct Courier {
    cargo: Cargo,
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
    publisher: Publisher,
    lanes: Lanes,
    settings: RelaySettings,
    counters: Arc<RelayCounters>,
}

/// A timeout that this relay has claimed.
struct Claimed {
    row: i64,
    order: OrderId,
    due: Deadline,
    traceparent: Option<TraceParent>,
}

/// An event that this relay has claimed.
#[derive(sqlx::FromRow)]
struct ClaimedEvent {
    id: i64,
    order_id: String,
    due_at: OffsetDateTime,
    event: String,
    event_id: String,
    data: String,
    traceparent: Option<String>,
}

/// How long the relay lets rows gather after it was woken: each pass costs the database the same, however few it finds.
const GATHER: Duration = Duration::from_millis(50);

/// How many events are claimed at a time.
const CLAIM_EVENTS_MAX: usize = 2048;

/// Rows of the outbox, and the message that carries them.
type Load = (Vec<i64>, Outgoing);

/// Whether a pass may have left something behind.
enum More {
    Perhaps,
    No,
}

impl More {
    fn after(claimed: usize, claim_max: i64) -> Self {
        if i64::try_from(claimed).is_ok_and(|claimed| claimed < claim_max) { Self::No } else { Self::Perhaps }
    }
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
    /// A relay. `confirm_timeout` bounds the wait for the broker; it must be shorter than the lease.
    #[must_use]
    pub fn new(pool: PgPool, broker: Broker, lanes: Lanes, settings: RelaySettings, confirm_timeout: Duration) -> Self {
        Self { pool, broker, lanes, settings, confirm_timeout, counters: Arc::default() }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<RelayCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until `shutdown`; then finishes what is on the way. Trouble with either server is waited out.
    pub async fn run(self, shutdown: CancellationToken) {
        let timeouts = self.courier(Cargo::Timeouts, "relay").run(shutdown.clone());
        let events = self.courier(Cargo::Events, "events").run(shutdown);
        futures_util::future::join(timeouts, events).await;
    }

    fn courier(&self, cargo: Cargo, purpose: &'static str) -> Courier {
        Courier {
            cargo,
            pool: self.pool.clone(),
            connection: None,
            publisher: Publisher::new(self.broker.clone(), purpose, self.confirm_timeout),
            lanes: self.lanes.clone(),
            settings: self.settings.clone(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl Courier {
    /// The channel on which inserts into the outbox notify.
    const NOTIFICATIONS: &'static str = "overdue_outbox";

    async fn run(mut self, shutdown: CancellationToken) {
        let mut delays = Policy::RECONNECT.delays();
        let mut listener = None;
        while !shutdown.is_cancelled() {
            let begun = Instant::now();
            let wait = match self.pass().await {
                // Events are in no hurry: while there are many, they leave the servers half of the time to what is.
                Ok(More::Perhaps) if self.cargo == Cargo::Events => Some(begun.elapsed()),
                Ok(More::Perhaps) => continue,
                Ok(More::No) => {
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

    /// Claims, publishes and deletes once.
    async fn pass(&mut self) -> Result<More, RelayError> {
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

    async fn pass_on(&mut self, connection: &mut PgConnection) -> Result<More, RelayError> {
        let (loads, more) = match self.cargo {
            Cargo::Timeouts => self.timeouts(connection).await?,
            Cargo::Events => self.events(connection).await?,
        };
        if loads.is_empty() {
            return Ok(more);
        }
        let (rows, messages): (Vec<Vec<i64>>, Vec<Outgoing>) = loads.into_iter().unzip();
        let fates = self.publisher.publish(&messages).await;

        let (mut sent, mut refused, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        let mut failure = None;
        for (rows, fate) in rows.into_iter().zip(fates) {
            match fate {
                Ok(()) => {
                    sent.extend(rows);
                    add(&self.counters.messages, 1);
                    continue;
                }
                // Something about this lane: the others must not wait for it.
                Err(error @ (NotPublished::Unroutable(_) | NotPublished::Refused)) => {
                    tracing::warn!(%error, rows = rows.len(), "a message was not taken; what it carries stays in the outbox");
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
        let counter = if self.cargo == Cargo::Timeouts { &self.counters.orders } else { &self.counters.events };
        add(counter, sent.len());
        self.answered(release(connection, &refused, REFUSED_AGAIN_AFTER)).await?;
        self.answered(release(connection, &unsent, Duration::ZERO)).await?;
        tracing::debug!(cargo = ?self.cargo, rows = sent.len(), messages = messages.len(), "sent");
        failure.map_or(Ok(more), |error| Err(error.into()))
    }

    /// Timeouts, grouped into messages, each with the rows that it carries.
    async fn timeouts(&self, connection: &mut PgConnection) -> Result<(Vec<Load>, More), RelayError> {
        let (claimed, now) = self.answered(claim(connection, &self.settings)).await?;
        let more = More::after(claimed.len(), self.settings.claim_orders_max);
        let mut by_shard: BTreeMap<Shard, Vec<Claimed>> = BTreeMap::new();
        for claimed in claimed {
            by_shard.entry(self.lanes.shards().of(&claimed.order)).or_default().push(claimed);
        }
        let mut loads = Vec::new();
        for (shard, claimed) in by_shard {
            let window = self.settings.window;
            for group in coalesce(claimed, |claimed| claimed.due, now.read(), window, wire::ORDERS_MAX) {
                let message = message(&group, &self.lanes, shard, now.read());
                loads.push((group.into_iter().map(|claimed| claimed.row).collect(), message));
            }
        }
        Ok((loads, more))
    }

    /// Events, a message each.
    async fn events(&self, connection: &mut PgConnection) -> Result<(Vec<Load>, More), RelayError> {
        let claimed = self.answered(claim_events(connection, &self.settings)).await?;
        let more = More::after(claimed.len(), CLAIM_EVENTS_MAX as i64);
        let load = |event: &ClaimedEvent| {
            let message = event_message(event, &self.settings.event_source);
            if message.is_none() {
                // The table's CHECKs do not let such a row in. Should they be gone: the others must not suffer.
                tracing::error!(outbox_id = event.id, "a row of the outbox is no event; it stays");
            }
            Some((vec![event.id], message?))
        };
        Ok((claimed.iter().filter_map(load).collect(), more))
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
                tokio::time::sleep(GATHER).await;
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
    let rows: Vec<(i64, String, OffsetDateTime, Option<String>, OffsetDateTime)> = sqlx::query_as(
        // By ctid, which leads to the rows whatever the planner believes of an outbox that was empty a moment
        // ago: joined in as a subquery, the choice may be run anew for each row, limit and all.
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is null and (claimed_until is null or claimed_until < clock_timestamp())
             order by id limit $1 for update skip locked))
         returning o.id, o.order_id, o.due_at, o.traceparent, clock_timestamp()",
    )
    .bind(settings.claim_orders_max)
    .bind(milliseconds(settings.lease))
    .fetch_all(connection)
    .await?;
    let now = DatabaseTime::of(rows.last().map(|(.., now)| *now));
    let mut claimed = Vec::with_capacity(rows.len());
    for (row, order, due, traceparent, _) in rows {
        match OrderId::new(&order) {
            Ok(order) => {
                let traceparent = traceparent.and_then(|text| text.parse().ok());
                claimed.push(Claimed { row, order, due: Deadline::at(due), traceparent });
            }
            // The table's CHECK does not let such a row in. Should it be gone: the others must not suffer.
            Err(error) => tracing::error!(outbox_id = row, %error, "a row of the outbox names no order; it stays"),
        }
    }
    Ok((claimed, now))
}

/// The same for events.
async fn claim_events(
    connection: &mut PgConnection,
    settings: &RelaySettings,
) -> Result<Vec<ClaimedEvent>, sqlx::Error> {
    sqlx::query_as(
        "update outbox o set claimed_until = clock_timestamp() + $2 * interval '1 millisecond'
         where o.ctid = any(array(
             select ctid from outbox
             where event is not null and (claimed_until is null or claimed_until < clock_timestamp())
             order by id limit $1 for update skip locked))
         returning o.id, o.order_id, o.due_at, o.event, o.event_id, o.data::text, o.traceparent",
    )
    .bind(CLAIM_EVENTS_MAX as i64)
    .bind(milliseconds(settings.lease))
    .fetch_all(connection)
    .await
}

fn event_message(claimed: &ClaimedEvent, source: &str) -> Option<Outgoing> {
    let order = OrderId::new(&claimed.order_id).ok()?;
    let data: &RawValue = serde_json::from_str(&claimed.data).ok()?;
    let time = Deadline::at(claimed.due_at);
    let traceparent = claimed.traceparent.as_ref().and_then(|text| text.parse::<TraceParent>().ok());
    let traceparent = traceparent.as_ref();
    let event = Event { id: &claimed.event_id, source, kind: &claimed.event, order: &order, time, data, traceparent };
    Some(event.into())
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
fn message(group: &[Claimed], lanes: &Lanes, shard: Shard, now: OffsetDateTime) -> Outgoing {
    let remaining = group.last().map_or(Duration::ZERO, |latest| latest.due.remaining(now));
    let orders: Vec<_> = group.iter().map(|claimed| (claimed.order.clone(), claimed.due)).collect();
    let parents: Vec<TraceParent> = group.iter().filter_map(|claimed| claimed.traceparent.clone()).collect();
    let span = tracing::info_span!(target: trace::TARGET, "send timeout", orders = orders.len());
    trace::follow(&span, &parents);
    let message = Outgoing::timeout(TimeoutKind::Payment, &orders, lanes.choose(remaining), shard);
    message.traced(trace::onward(&span, &parents).as_ref())
}
