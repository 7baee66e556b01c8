use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use broker::{Batch, Broker, Incoming, Publisher, Session};
use order::{Attempts, Lanes, OrderId, Shard, TimeoutKind};
use retry::Policy;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use trace::TraceParent;
use tracing::Instrument;

use crate::counters::add;
use crate::follow_ups::FollowUp;
use crate::refunding::Refunder;
use crate::settling::{BROKEN, Interrupted, Settler, UnknownOrders};
use crate::{Actor, Gateways, OrderBook, WorkerCounters};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// How many pipelines run side by side, each with its own consumer; with more shards than that, one for each shard.
    pub pipelines: usize,
    /// How many pipelines ask gateways, besides those.
    pub gateway_pipelines: usize,
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
    /// What is done about orders that the database does not know.
    pub unknown: UnknownOrders,
    /// How long a batch is held while a server is away. Then it goes back to the queue, and nothing more is taken out
    /// of it before the database answers. Shorter than the 30 minutes after which RabbitMQ takes a message for lost
    /// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
    pub hold_max: Duration,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            pipelines: 2,
            gateway_pipelines: 2,
            batch_orders_max: 2048,
            prefetch_messages: 2048,
            confirm_timeout: Duration::from_secs(10),
            window: Duration::from_millis(10),
            renew_idle_after: Duration::from_secs(30),
            unknown: UnknownOrders::default(),
            hold_max: Duration::from_mins(15),
        }
    }
}

/// The pipelines of a process.
pub struct Worker {
    broker: Broker,
    book: OrderBook,
    lanes: Lanes,
    gateways: Gateways,
    settings: PipelineSettings,
    counters: Arc<WorkerCounters>,
}

impl Worker {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(broker: Broker, book: OrderBook, lanes: Lanes, gateways: Gateways, settings: PipelineSettings) -> Self {
        let counters = gateways.counters();
        Self { broker, book, lanes, gateways, settings, counters }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until `shutdown`; then every pipeline finishes the batch that it has in hand (one that waits for a
    /// gateway gives it back). Trouble with any server is waited out.
    ///
    /// # Errors
    /// If a pipeline panicked; the others are stopped then. What they had not acked comes again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let mut tasks = JoinSet::new();
        let refunder = Refunder::new(self.book.clone(), self.gateways.clone(), Arc::clone(&self.counters));
        let late = refunder.bell();
        for (stage, count) in [(Stage::Due, self.settings.pipelines), (Stage::Gateway, self.settings.gateway_pipelines)]
        {
            // Each shard has one, at the least; but none is none.
            let shards = self.lanes.shards();
            let count = if count == 0 { 0 } else { count.max(shards.count()) };
            for shard in shards.iter().cycle().take(count) {
                let pipeline = Pipeline {
                    stage,
                    shard,
                    broker: self.broker.clone(),
                    publisher: Publisher::new(self.broker.clone(), "worker", self.settings.confirm_timeout),
                    lanes: self.lanes.clone(),
                    settings: self.settings.clone(),
                    settler: Settler {
                        book: self.book.clone(),
                        gateways: self.gateways.clone(),
                        asks: stage == Stage::Gateway,
                        actor: Actor::on_timeout("worker"),
                        arms: false,
                        traceparent: None,
                        unknown: self.settings.unknown,
                        late: Arc::clone(&late),
                        counters: Arc::clone(&self.counters),
                        shutdown: shutdown.clone(),
                        patience_ends: None,
                    },
                };
                tasks.spawn(pipeline.run());
            }
        }
        tasks.spawn(refunder.run(shutdown));
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Where an order stands on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has come out of its lane. If its gateway must be asked, it is handed over.
    Due,
    /// Its gateway must be asked.
    Gateway,
}

impl Stage {
    fn kind(self) -> TimeoutKind {
        match self {
            Self::Due => TimeoutKind::Payment,
            Self::Gateway => TimeoutKind::Gateway,
        }
    }

    /// Orders that wait for a gateway are in memory for long, so there are fewer of them.
    fn bounds(self, settings: &PipelineSettings) -> (usize, u16) {
        match self {
            Self::Due => (settings.batch_orders_max, settings.prefetch_messages),
            Self::Gateway => (
                settings.batch_orders_max.min(GATEWAY_ORDERS_MAX),
                settings.prefetch_messages.min(GATEWAY_PREFETCH_MESSAGES),
            ),
        }
    }
}

/// The most orders of a batch whose gateways are asked.
const GATEWAY_ORDERS_MAX: usize = 1024;

/// The most messages that the broker may send ahead to a pipeline that asks gateways. With those of our own, of at
/// most [`ASKED_TOGETHER_MAX`] orders, and batches that take no longer than [`crate::settling::ASKING_MAX`], none is unacked for
/// the 30 minutes after which RabbitMQ takes it for lost
/// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
const GATEWAY_PREFETCH_MESSAGES: u16 = 64;

/// How many orders whose gateways are to be asked share a message.
pub(crate) const ASKED_TOGETHER_MAX: usize = 64;

/// One consumer and all that its messages go through: receive, load, decide, ask, settle, follow up, ack.
pub(crate) struct Pipeline {
    pub(crate) stage: Stage,
    /// Of which its messages are, and what they lead to.
    pub(crate) shard: Shard,
    broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) lanes: Lanes,
    pub(crate) settings: PipelineSettings,
    pub(crate) settler: Settler,
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

/// After a batch of so many messages there are more to come, and the next batch waits a little for them: what a batch costs
/// besides its orders is shared by more of them then. Whoever comes alone never waits for company.
const BUSY_MESSAGES: usize = 128;

/// How long it waits.
const LINGER: Duration = Duration::from_millis(20);

/// After so many batches a careful session has shown that the head of the queue can be read.
const TRUSTED_AFTER_BATCHES: u32 = 5;

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
        let shutdown = self.settler.shutdown.clone();
        while !shutdown.is_cancelled() {
            self.settler.patience_ends = None;
            if self.settler.database_answers().await.is_err() {
                break;
            }
            let queue = broker::due_queue(self.stage.kind(), self.shard);
            let (_, prefetch_max) = self.stage.bounds(&self.settings);
            let prefetch = if careful { 1 } else { prefetch_max };
            let opening = Session::open(&self.broker, self.stage.kind(), self.shard, prefetch);
            let opened = tokio::select! {
                opened = opening => opened,
                () = shutdown.cancelled() => break,
            };
            let (delays, error) = match opened {
                Ok(session) => {
                    if !renewed {
                        tracing::info!(queue, prefetch, "consuming");
                    }
                    away.reset();
                    self.settler.counters.consumers_open.fetch_add(1, Ordering::Relaxed);
                    let ended = self.work(session, careful).await;
                    self.settler.counters.consumers_open.fetch_sub(1, Ordering::Relaxed);
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
            // The patience of a batch that was given back must not end the pipeline.
            self.settler.patience_ends = None;
            if self.settler.wait(delays, "the consumer cannot go on", &error).await.is_err() {
                break;
            }
        }
        self.publisher.close().await;
    }

    /// Works until the session ends, has earned trust, or the program is to stop.
    async fn work(&mut self, mut session: Session, careful: bool) -> Ended {
        let mut acked = 0;
        let mut linger = Duration::ZERO;
        let (orders_max, _) = self.stage.bounds(&self.settings);
        let ended = loop {
            if careful && acked == TRUSTED_AFTER_BATCHES {
                break Ended::Trusted;
            }
            if self.stage == Stage::Gateway && self.rest().await.is_err() {
                break Ended::Stopped;
            }
            let received = tokio::select! {
                received = session.receive(orders_max, linger) => received,
                () = tokio::time::sleep(self.settings.renew_idle_after) => break Ended::Idle,
                () = self.settler.shutdown.cancelled() => break Ended::Stopped,
            };
            let Some(batch) = received else { break Ended::Broken("the subscription has ended".to_owned()) };
            self.settler.patience_ends = Some(Instant::now() + self.settings.hold_max);
            if self.process(&batch).await.is_err() {
                if self.settler.shutdown.is_cancelled() {
                    break Ended::Stopped;
                }
                break Ended::Broken("a batch was held for too long; it is given back".to_owned());
            }
            let messages = batch.messages().len();
            linger = if messages >= BUSY_MESSAGES { LINGER } else { Duration::ZERO };
            if let Err(error) = batch.ack().await {
                break Ended::Broken(error.to_string());
            }
            acked += 1;
            add(&self.settler.counters.batches, 1);
            add(&self.settler.counters.messages, messages);
        };
        session.close().await;
        ended
    }

    /// While no gateway can be asked, orders come only so fast that one now and then finds out whether it can.
    async fn rest(&self) -> Result<(), Interrupted> {
        let Some(closed_for) = self.settler.gateways.closed_for() else { return Ok(()) };
        tokio::select! {
            () = tokio::time::sleep(closed_for) => Ok(()),
            () = self.settler.shutdown.cancelled() => Err(Interrupted),
        }
    }

    /// Does all that a batch asks for. When it returns, everything is committed and confirmed.
    async fn process(&mut self, batch: &Batch) -> Result<(), Interrupted> {
        let begun = Instant::now();
        // Each order once, in the order of their IDs, however many messages name it; with the most attempts that one
        // of them counts.
        let mut orders: BTreeMap<OrderId, Attempts> = BTreeMap::new();
        for message in batch.messages() {
            let Ok(content) = &message.content else { continue };
            let tried = message.attempts();
            for id in &content.orders {
                let known = orders.entry(id.clone()).or_default();
                if known.made < tried.made {
                    known.clone_from(&tried);
                }
            }
        }
        let parents: Vec<TraceParent> = batch.messages().iter().filter_map(Incoming::traceparent).collect();
        let stage = self.stage;
        let span = tracing::info_span!(target: trace::TARGET, "settle batch", ?stage, orders = orders.len());
        trace::follow(&span, &parents);
        self.settler.traceparent = trace::onward(&span, &parents);
        let settled = self.settler.settle(&orders).instrument(span).await?;
        let follow_ups = self.follow_ups(batch, &settled);
        let follow_up_count = follow_ups.len();
        let parked = follow_ups.iter().filter(|follow_up| matches!(follow_up, FollowUp::Park(_))).count();
        self.publish(follow_ups, settled.time).await?;
        add(&self.settler.counters.parked, parked);
        tracing::debug!(
            messages = batch.messages().len(),
            orders = orders.len(),
            follow_ups = follow_up_count,
            took_ms = begun.elapsed().as_millis(),
            "settled a batch"
        );
        self.settler.counters.batch_orders.observe(orders.len() as f64);
        Ok(())
    }
}
