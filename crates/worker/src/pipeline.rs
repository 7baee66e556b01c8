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
    /// After so long without a message the subscription is made anew. A broker can forget a consumer without
    /// telling it, for example when a queue is deleted and declared again while a message is in hand.
    pub renew_idle_after: Duration,
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
            renew_idle_after: Duration::from_secs(30),
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

/// Why some orders could not be closed together.
enum Setback {
    /// One of them breaks a rule; what the database said.
    Refused(String),
    /// They are too many for one statement.
    Slow,
}

/// How a session ended.
enum Ended {
    /// The program is to stop.
    Stopped,
    /// It was a careful one, and went well.
    Trusted,
    /// Nothing came for a while.
    Idle,
    /// The broker ended it, or something broke; why.
    Broken(String),
}

/// After so many batches a careful session has shown that the head of the queue can be read.
const TRUSTED_AFTER_BATCHES: u32 = 5;

/// Between sessions that could be opened and then broke: short, so that a message that breaks them is soon at
/// its delivery limit and out of the way.
const BROKEN: Policy = Policy { initial: Duration::from_millis(100), max: Duration::from_millis(500) };

/// How often an order may be found changed between load and close before something must be wrong with it.
const ROUNDS_MAX: u32 = 8;

/// What must be published before a batch may be acked.
enum FollowUp {
    /// Orders that wait longer, due within the window of each other; latest due last. The lane is chosen when
    /// they are sent, which may be long after they were decided.
    Wait(Vec<(OrderId, Deadline)>),
    /// What is set aside.
    Park(Box<Outgoing>),
}

/// The database's time, carried on by this machine's clock.
#[derive(Clone, Copy)]
struct DatabaseTime {
    read: OffsetDateTime,
    at: Instant,
}

impl DatabaseTime {
    fn now(self) -> OffsetDateTime {
        self.read + self.at.elapsed()
    }
}

/// The program is to stop while something has to be waited out. The batch is given up, unacked.
struct Interrupted;

impl Pipeline {
    /// Sessions, one after the other: each connects and subscribes anew, and works until it breaks.
    ///
    /// A message that breaks the session itself (one that the AMQP library cannot read) comes again each time,
    /// until the broker parks it at its delivery limit. What was sent ahead along with it counts as delivered,
    /// too. So a session is careful, one message at a time, until it has acked some; then it ends, and the next
    /// takes all it may.
    async fn run(mut self) {
        let mut away = Policy::RECONNECT.delays();
        let mut broken = BROKEN.delays();
        let (mut careful, mut renewed) = (true, false);
        while !self.shutdown.is_cancelled() {
            let queue = topology::DUE_PAYMENT_QUEUE;
            let prefetch = if careful { 1 } else { self.settings.prefetch_messages };
            let opening = Session::open(&self.broker, queue, prefetch);
            let opened = tokio::select! {
                opened = opening => opened,
                () = self.shutdown.cancelled() => break,
            };
            let (delays, error) = match opened {
                Ok(session) => {
                    if !renewed {
                        tracing::info!(queue, prefetch, "consuming");
                    }
                    away.reset();
                    let ended = self.work(session, careful).await;
                    renewed = matches!(ended, Ended::Idle);
                    match ended {
                        Ended::Stopped => break,
                        Ended::Idle => continue,
                        Ended::Trusted => {
                            careful = false;
                            broken.reset();
                            continue;
                        }
                        Ended::Broken(error) => {
                            careful = true;
                            (&mut broken, error)
                        }
                    }
                }
                Err(error) => (&mut away, error.to_string()),
            };
            if self.wait(delays, "the consumer cannot go on", &error).await.is_err() {
                break;
            }
        }
        self.publisher.close().await;
    }

    /// Works until the session ends, has earned trust, or the program is to stop.
    async fn work(&mut self, mut session: Session, careful: bool) -> Ended {
        let mut acked = 0;
        let ended = loop {
            if careful && acked == TRUSTED_AFTER_BATCHES {
                break Ended::Trusted;
            }
            let received = tokio::select! {
                received = session.receive(self.settings.batch_orders_max) => received,
                () = tokio::time::sleep(self.settings.renew_idle_after) => break Ended::Idle,
                () = self.shutdown.cancelled() => break Ended::Stopped,
            };
            let Some(batch) = received else { break Ended::Broken("the subscription has ended".to_owned()) };
            if self.process(&batch).await.is_err() {
                break Ended::Stopped;
            }
            let messages = batch.messages().len();
            if let Err(error) = batch.ack().await {
                break Ended::Broken(error.to_string());
            }
            acked += 1;
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
        let (outcomes, time) = self.settle(&ids).await?;
        let follow_ups = self.follow_ups(batch, &outcomes, time);
        let follow_up_count = follow_ups.len();
        self.publish(follow_ups, time).await?;
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
    async fn settle(&mut self, ids: &[OrderId]) -> Result<(HashMap<OrderId, Outcome>, DatabaseTime), Interrupted> {
        let mut outcomes = HashMap::with_capacity(ids.len());
        let mut time = DatabaseTime { read: OffsetDateTime::UNIX_EPOCH, at: Instant::now() };
        let mut open = ids.to_vec();
        let mut delays = BROKEN.delays();
        for round in 1.. {
            if open.is_empty() {
                break;
            }
            if round > 2 {
                // Once is a race. Again and again is a trigger, or a policy, that keeps the order from closing.
                self.wait(
                    &mut delays,
                    "orders were not closed although they are due",
                    &format!("{} orders", open.len()),
                )
                .await?;
            }
            if round > ROUNDS_MAX {
                let detail = format!("{ROUNDS_MAX} attempts at closing it changed nothing");
                outcomes.extend(
                    open.drain(..).map(|id| (id, Outcome::Parked { reason: "not_closed", detail: detail.clone() })),
                );
                break;
            }
            let loaded = self.load(&open).await?;
            time = DatabaseTime { read: loaded.now, at: Instant::now() };
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
        Ok((outcomes, time))
    }

    /// Closes, and returns the orders that have changed meanwhile. Where the database refuses the whole, or does
    /// not get through with it in time, it is halved and halved again: until the order that breaks a rule stands
    /// alone, and is parked, or the rest is quick enough.
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
                // Not met: slowness is told of several only.
                Err(Setback::Slow) => parts.push(part),
                Err(Setback::Refused(detail)) => {
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

    /// What the outcomes lead to: orders that wait longer, and what is parked.
    fn follow_ups(&self, batch: &Batch, outcomes: &HashMap<OrderId, Outcome>, time: DatabaseTime) -> Vec<FollowUp> {
        let waiting = outcomes.iter().filter_map(|(id, outcome)| match outcome {
            Outcome::Waiting(deadline) => Some((id.clone(), *deadline)),
            _ => None,
        });
        let groups = coalesce(waiting.collect(), |(_, due)| *due, time.now(), self.settings.window, wire::ORDERS_MAX);
        let parked: Vec<Outgoing> = batch.messages().iter().flat_map(|message| parked(message, outcomes)).collect();
        add(&self.counters.parked, parked.len());
        groups.into_iter().map(FollowUp::Wait).chain(parked.into_iter().map(Box::new).map(FollowUp::Park)).collect()
    }

    /// Publishes until everything is confirmed and routed; what the broker has already is not sent again.
    async fn publish(&mut self, mut follow_ups: Vec<FollowUp>, time: DatabaseTime) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        while !follow_ups.is_empty() {
            let now = time.now();
            let messages: Vec<Outgoing> = follow_ups.iter().map(|follow_up| self.message(follow_up, now)).collect();
            let fates = self.publisher.publish(&messages).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err()).map(ToString::to_string);
            let mut fates = fates.into_iter();
            follow_ups.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                self.wait(&mut delays, "what a batch leads to cannot be published", &error).await?;
            }
        }
        Ok(())
    }

    fn message(&self, follow_up: &FollowUp, now: OffsetDateTime) -> Outgoing {
        match follow_up {
            FollowUp::Park(message) => Outgoing::clone(message),
            FollowUp::Wait(group) => {
                let remaining = group.last().map_or(Duration::ZERO, |(_, latest)| latest.remaining(now));
                Outgoing::payment_timeout(group, self.lanes.choose(remaining))
            }
        }
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

    /// Closes, and waits out a database that is away. A setback is an answer.
    async fn close_part(&self, part: &[Closing]) -> Result<Result<Vec<Closed>, Setback>, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        loop {
            match self.book.settle(part, &self.settings.actor).await {
                Ok(closed) => return Ok(Ok(closed)),
                Err(BookError::Refused(detail)) => return Ok(Err(Setback::Refused(detail))),
                Err(BookError::Slow(_)) if part.len() > 1 => return Ok(Err(Setback::Slow)),
                Err(error) => self.wait(&mut delays, "orders cannot be closed", &error).await?,
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
