use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use broker::{Batch, Broker, Incoming, Outgoing, Publisher, Session, topology, wire};
use order::{Deadline, Decision, Lanes, OrderId, coalesce, decide};
use retry::Policy;
use time::OffsetDateTime;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::counters::add;
use crate::{BookError, Closed, Closing, Loaded, OrderBook, WorkerCounters};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// How many pipelines run side by side, each with its own consumer.
    pub pipelines: usize,
    /// A batch is closed when its messages name this many orders.
    pub batch_orders_max: usize,
    /// How many messages the broker may send ahead to a pipeline.
    pub prefetch_messages: u16,
    /// How long the broker may take to confirm what a batch leads to.
    pub confirm_timeout: Duration,
    /// Orders that go back to a lane and are due within this time of each other may share a message.
    pub window: Duration,
    /// Who the order log says it was.
    pub actor: String,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            pipelines: 2,
            batch_orders_max: 2048,
            prefetch_messages: 2048,
            confirm_timeout: Duration::from_secs(10),
            window: Duration::from_millis(50),
            actor: "worker".to_owned(),
        }
    }
}

/// The pipelines of a process.
pub struct Worker {
    broker: Broker,
    book: OrderBook,
    lanes: Lanes,
    settings: PipelineSettings,
    counters: Arc<WorkerCounters>,
}

impl Worker {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(broker: Broker, book: OrderBook, lanes: Lanes, settings: PipelineSettings) -> Self {
        Self { broker, book, lanes, settings, counters: Arc::default() }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until `shutdown`; then every pipeline finishes the batch that it has in hand. Trouble with either
    /// server is waited out.
    ///
    /// # Errors
    /// If a pipeline panicked; the others are stopped then. What they had not acked comes again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let mut pipelines = JoinSet::new();
        for _ in 0..self.settings.pipelines {
            let pipeline = Pipeline {
                broker: self.broker.clone(),
                publisher: Publisher::new(self.broker.clone(), "worker", self.settings.confirm_timeout),
                book: self.book.clone(),
                lanes: self.lanes.clone(),
                settings: self.settings.clone(),
                counters: Arc::clone(&self.counters),
                shutdown: shutdown.clone(),
            };
            pipelines.spawn(pipeline.run());
        }
        while let Some(ended) = pipelines.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// One consumer and all that its messages go through: receive, load, decide, settle, follow up, ack.
struct Pipeline {
    broker: Broker,
    publisher: Publisher,
    book: OrderBook,
    lanes: Lanes,
    settings: PipelineSettings,
    counters: Arc<WorkerCounters>,
    shutdown: CancellationToken,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Closed by us.
    Closed,
    /// Paid, cancelled or closed before.
    Unchanged,
    /// Not due yet: to be looked at again then.
    Waiting(Deadline),
    /// For a person.
    Parked { reason: &'static str, detail: String },
}

/// The program is to stop while something has to be waited out. The batch is given up, unacked.
struct Interrupted;

impl Pipeline {
    /// Sessions, one after the other: each connects and subscribes anew, and works until it breaks.
    async fn run(mut self) {
        let mut delays = Policy::RECONNECT.delays();
        while !self.shutdown.is_cancelled() {
            let queue = topology::DUE_PAYMENT_QUEUE;
            let opening = Session::open(&self.broker, queue, self.settings.prefetch_messages);
            let opened = tokio::select! {
                opened = opening => opened,
                () = self.shutdown.cancelled() => break,
            };
            let error = match opened {
                Ok(session) => {
                    tracing::info!(queue, "consuming");
                    delays.reset();
                    self.work(session).await
                }
                Err(error) => Some(error.to_string()),
            };
            let Some(error) = error else { break };
            if self.wait(&mut delays, "the consumer cannot go on", &error).await.is_err() {
                break;
            }
        }
        self.publisher.close().await;
    }

    /// Works until the session ends (then returns why) or the program is to stop.
    async fn work(&mut self, mut session: Session) -> Option<String> {
        let ended = loop {
            let received = tokio::select! {
                received = session.receive(self.settings.batch_orders_max) => received,
                () = self.shutdown.cancelled() => break None,
            };
            let Some(batch) = received else { break Some("the broker ended the subscription".to_owned()) };
            if self.process(&batch).await.is_err() {
                break None;
            }
            let messages = batch.messages().len();
            if let Err(error) = batch.ack().await {
                break Some(error.to_string());
            }
            add(&self.counters.batches, 1);
            add(&self.counters.messages, messages);
        };
        session.close().await;
        ended
    }

    /// Does all that a batch asks for. When it returns, everything is committed and confirmed.
    async fn process(&mut self, batch: &Batch) -> Result<(), Interrupted> {
        let begun = Instant::now();
        let ids = batch
            .messages()
            .iter()
            .filter_map(|message| message.content.as_ref().ok())
            .flat_map(|content| &content.orders);
        // Each order once, in the order of the IDs, however many messages name it.
        let ids: Vec<OrderId> = ids.cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (outcomes, now) = self.settle(&ids).await?;
        let follow_ups = self.follow_ups(batch, &outcomes, now);
        let follow_up_count = follow_ups.len();
        self.publish(follow_ups).await?;
        tracing::debug!(
            messages = batch.messages().len(),
            orders = ids.len(),
            follow_ups = follow_up_count,
            took_ms = begun.elapsed().as_millis(),
            "settled a batch"
        );
        Ok(())
    }

    /// Loads, decides and closes until it is known of each order what became of it. An order that changed
    /// between load and close (paid, cancelled, extended at that very moment) is looked at once more.
    async fn settle(&mut self, ids: &[OrderId]) -> Result<(HashMap<OrderId, Outcome>, OffsetDateTime), Interrupted> {
        let mut outcomes = HashMap::with_capacity(ids.len());
        let mut now = OffsetDateTime::UNIX_EPOCH;
        let mut open = ids.to_vec();
        while !open.is_empty() {
            let loaded = self.load(&open).await?;
            now = loaded.now;
            let mut closings = Vec::new();
            for id in open.drain(..) {
                let outcome = match loaded.orders.get(&id) {
                    Some(Err(detail)) => Outcome::Parked { reason: "unreadable_order", detail: detail.clone() },
                    Some(Ok(_)) | None => {
                        match decide(loaded.orders.get(&id).and_then(|order| order.as_ref().ok()), loaded.now) {
                            Decision::Nothing(_) => Outcome::Unchanged,
                            Decision::Wait(deadline) => Outcome::Waiting(deadline),
                            Decision::Unknown => Outcome::Parked {
                                reason: "unknown_order",
                                detail: format!("the database has no order {id}"),
                            },
                            Decision::Close(deadline) => {
                                closings.push(Closing { id, deadline });
                                continue;
                            }
                        }
                    }
                };
                outcomes.insert(id, outcome);
            }
            open = self.close(closings, &mut outcomes).await?;
        }
        self.count(&outcomes);
        Ok((outcomes, now))
    }

    /// Closes, and returns the orders that have changed meanwhile. Where the database refuses the whole, it is
    /// halved and halved again until the order that breaks a rule stands alone; that one is parked.
    async fn close(
        &mut self,
        closings: Vec<Closing>,
        outcomes: &mut HashMap<OrderId, Outcome>,
    ) -> Result<Vec<OrderId>, Interrupted> {
        let mut changed = Vec::new();
        let mut parts = vec![closings];
        while let Some(mut part) = parts.pop() {
            match self.close_part(&part).await? {
                Ok(closed) => {
                    let lateness_max = closed.iter().map(|closed| closed.lateness).max().unwrap_or_default();
                    let lateness_max_ms = u64::try_from(lateness_max.as_millis()).unwrap_or(u64::MAX);
                    self.counters.lateness_max_ms.fetch_max(lateness_max_ms, Ordering::Relaxed);
                    let winners: HashSet<OrderId> = closed.into_iter().map(|closed| closed.id).collect();
                    changed.extend(part.into_iter().map(|closing| closing.id).filter(|id| !winners.contains(id)));
                    outcomes.extend(winners.into_iter().map(|id| (id, Outcome::Closed)));
                }
                Err(_) if part.len() > 1 => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
                Err(detail) => {
                    for closing in part {
                        tracing::error!(order = %closing.id, %detail, "the order cannot be closed; it is parked");
                        outcomes.insert(
                            closing.id,
                            Outcome::Parked { reason: "refused_by_database", detail: detail.clone() },
                        );
                    }
                }
            }
        }
        Ok(changed)
    }

    /// What must be published before the batch may be acked: orders that wait longer, and what is parked.
    fn follow_ups(&self, batch: &Batch, outcomes: &HashMap<OrderId, Outcome>, now: OffsetDateTime) -> Vec<Outgoing> {
        let waiting = outcomes.iter().filter_map(|(id, outcome)| match outcome {
            Outcome::Waiting(deadline) => Some((id.clone(), *deadline)),
            _ => None,
        });
        let groups = coalesce(waiting.collect(), |(_, due)| *due, now, self.settings.window, wire::ORDERS_MAX);
        let mut messages: Vec<Outgoing> = groups
            .iter()
            .map(|group| {
                let remaining = group.last().map_or(Duration::ZERO, |(_, latest)| latest.remaining(now));
                Outgoing::payment_timeout(group, self.lanes.choose(remaining))
            })
            .collect();
        let before = messages.len();
        messages.extend(batch.messages().iter().flat_map(|message| parked(message, outcomes)));
        add(&self.counters.parked, messages.len() - before);
        messages
    }

    /// Publishes until everything is confirmed and routed; what the broker has already is not sent again.
    async fn publish(&mut self, mut messages: Vec<Outgoing>) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        while !messages.is_empty() {
            let fates = self.publisher.publish(&messages).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err()).map(ToString::to_string);
            let mut fates = fates.into_iter();
            messages.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                self.wait(&mut delays, "what a batch leads to cannot be published", &error).await?;
            }
        }
        Ok(())
    }

    /// Loads, and waits out a database that is away.
    async fn load(&self, ids: &[OrderId]) -> Result<Loaded, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match self.book.load(ids).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) => self.wait(&mut delays, "orders cannot be loaded", &error).await?,
            }
        }
    }

    /// Closes, and waits out a database that is away. A refusal is an answer: what the database says of it.
    async fn close_part(&self, part: &[Closing]) -> Result<Result<Vec<Closed>, String>, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match self.book.settle(part, &self.settings.actor).await {
                Ok(closed) => return Ok(Ok(closed)),
                Err(BookError::Refused(detail)) => return Ok(Err(detail)),
                Err(error @ BookError::Away(_)) => self.wait(&mut delays, "orders cannot be closed", &error).await?,
            }
        }
    }

    /// Waits before the next try, unless the program is to stop. The batch is held meanwhile: giving it back
    /// would bring it again at once, and count against the queue's delivery limit.
    async fn wait(
        &self,
        delays: &mut retry::Delays,
        trouble: &str,
        error: &impl fmt::Display,
    ) -> Result<(), Interrupted> {
        add(&self.counters.held, 1);
        let delay = delays.next_delay();
        tracing::warn!(%error, retry_in_ms = delay.as_millis(), "{trouble}");
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.shutdown.cancelled() => Err(Interrupted),
        }
    }

    fn count(&self, outcomes: &HashMap<OrderId, Outcome>) {
        let count = |matches: fn(&Outcome) -> bool| outcomes.values().filter(|outcome| matches(outcome)).count();
        add(&self.counters.orders, outcomes.len());
        add(&self.counters.closed, count(|outcome| matches!(outcome, Outcome::Closed)));
        add(&self.counters.unchanged, count(|outcome| matches!(outcome, Outcome::Unchanged)));
        add(&self.counters.waiting, count(|outcome| matches!(outcome, Outcome::Waiting(_))));
    }
}

/// What of this message is set aside: all of it if it cannot be understood, else each entry that names no
/// order or an order that cannot be handled.
fn parked(message: &Incoming, outcomes: &HashMap<OrderId, Outcome>) -> Vec<Outgoing> {
    let content = match &message.content {
        Ok(content) => content,
        Err(fault) => return vec![message.parked(fault.code(), &fault.to_string())],
    };
    let bad_entries =
        content.bad_entries.iter().map(|bad| message.parked_entry(&bad.json, bad.fault.code(), &bad.fault.to_string()));
    // An order that the message names twice is parked once.
    let refused: BTreeMap<&OrderId, _> = content
        .orders
        .iter()
        .filter_map(|id| match outcomes.get(id) {
            Some(Outcome::Parked { reason, detail }) => Some((id, (*reason, detail))),
            _ => None,
        })
        .collect();
    let refused = refused.into_iter().map(|(id, (reason, detail))| {
        // An order ID needs no escaping in JSON.
        message.parked_entry(&format!("{{\"id\":\"{id}\"}}"), reason, detail)
    });
    bad_entries.chain(refused).collect()
}
