use std::sync::Arc;
use std::time::Duration;

use book::Actor;
use broker::{Broker, Publisher};
use order::{COALESCE_WINDOW, Lanes, Shard, TimeoutKind};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::early::Early;
use crate::follow_ups::GATEWAY_ORDERS_MAX;
use crate::gateways::Gateways;
use crate::handler::{Context, Handler};
use crate::hold::Hold;
use crate::metrics::WorkerMetrics;
use crate::outbound::Outbound;
use crate::patience::Patience;
use crate::pipeline::{Bounds, Pipeline};
use crate::plan::{Mode, UnknownOrders};
use crate::settler::Settler;
use crate::shared_book::SharedBook;
use crate::timers::SharedTimers;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// How many pipelines run side by side, each with its own consumer; with more shards than that, one for each shard.
    pub pipelines: usize,
    /// How many pipelines ask gateways, in addition to those.
    pub gateway_pipelines: usize,
    /// How many pipelines fire timers, in addition to those. With one, a burst of timers leaves half of the database idle.
    pub timer_pipelines: usize,
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
    /// What is done about orders that the book does not know.
    pub unknown: UnknownOrders,
    /// How long a batch is held while a server is away. Then it goes back to the queue, and nothing more is taken out
    /// of it before the book answers. Shorter than the 30 minutes after which RabbitMQ takes a message for lost
    /// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
    pub hold_max: Duration,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            pipelines: 2,
            gateway_pipelines: 2,
            timer_pipelines: 2,
            batch_orders_max: 2048,
            prefetch_messages: 2048,
            confirm_timeout: Publisher::CONFIRM_TIMEOUT,
            window: COALESCE_WINDOW,
            renew_idle_after: Duration::from_secs(30),
            unknown: UnknownOrders::default(),
            hold_max: Duration::from_mins(15),
        }
    }
}

/// The pipelines of a process.
pub struct Worker {
    broker: Broker,
    book: SharedBook,
    timers: SharedTimers,
    lanes: Lanes,
    gateways: Gateways,
    settings: PipelineSettings,
    metrics: WorkerMetrics,
}

/// The most orders of a batch whose gateways are asked. They are in memory for long.
const GATEWAY_BATCH_ORDERS_MAX: usize = 1024;

/// The most messages that the broker may send ahead to a pipeline that asks gateways. Our own have at most
/// [`GATEWAY_ORDERS_MAX`] orders, and a batch takes no longer than [`crate::asking::ASKING_MAX`]. So no message is unacked
/// for the 30 minutes after which RabbitMQ takes it for lost
/// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>).
const GATEWAY_PREFETCH_MESSAGES: u16 = 64;

const _: () = assert!(GATEWAY_ORDERS_MAX * GATEWAY_PREFETCH_MESSAGES as usize <= 4 * GATEWAY_BATCH_ORDERS_MAX);

impl Worker {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(
        broker: Broker,
        book: SharedBook,
        timers: SharedTimers,
        lanes: Lanes,
        gateways: Gateways,
        settings: PipelineSettings,
    ) -> Self {
        let metrics = gateways.metrics();
        Self { broker, book, timers, lanes, gateways, settings, metrics }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn metrics(&self) -> WorkerMetrics {
        self.metrics.clone()
    }

    /// Works until `shutdown`; then every pipeline finishes the batch that it has in hand (one that waits for a
    /// gateway gives it back). Trouble with any server is waited out.
    ///
    /// # Errors
    /// If a pipeline panicked; the others are stopped then. What they had not acked comes again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let mut tasks = JoinSet::new();
        for kind in TimeoutKind::ALL {
            let (count, handler) = match kind {
                TimeoutKind::Payment => (self.settings.pipelines, self.settler(Mode::Payment)),
                TimeoutKind::Gateway => (self.settings.gateway_pipelines, self.settler(Mode::Gateway)),
                TimeoutKind::Timer => (self.settings.timer_pipelines, Arc::new(self.timers.clone()) as _),
            };
            let shards = self.lanes.shards();
            // Each shard has one, at the least; but none is none.
            let count = if count == 0 { 0 } else { count.max(shards.count()) };
            let holds: Vec<(Shard, Hold)> =
                shards.iter().map(|shard| (shard, Hold::new(self.metrics.held.clone()))).collect();
            for (shard, hold) in holds.iter().cycle().take(count) {
                tasks.spawn(self.pipeline(kind, *shard, Arc::clone(&handler), hold.clone(), &shutdown).run());
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }

    fn settler(&self, mode: Mode) -> Arc<dyn Handler> {
        Arc::new(Settler::new(&self.book, &self.gateways, mode, self.settings.unknown))
    }

    fn pipeline(
        &self,
        kind: TimeoutKind,
        shard: Shard,
        handler: Arc<dyn Handler>,
        hold: Hold,
        shutdown: &CancellationToken,
    ) -> Pipeline {
        let publisher = Publisher::new(self.broker.clone(), "worker", self.settings.confirm_timeout);
        let patience = Patience::endless(shutdown.clone(), self.metrics.waits.clone());
        Pipeline {
            kind,
            shard,
            broker: self.broker.clone(),
            handler,
            outbound: Outbound::new(publisher, self.lanes.clone(), shard, self.gateways.trail()),
            bounds: self.bounds(kind),
            early: Early::new(self.book.clone(), self.metrics.clone()),
            warnings: trace::Throttle::default(),
            trail: self.gateways.trail(),
            hold,
            clock: None,
            context: Context { by: Actor::on_timeout("worker"), trace: None, patience },
            metrics: self.metrics.clone(),
        }
    }

    fn bounds(&self, kind: TimeoutKind) -> Bounds {
        let settings = &self.settings;
        let bounds = Bounds {
            orders_max: settings.batch_orders_max,
            prefetch_max: settings.prefetch_messages,
            window: settings.window,
            margin: self.lanes.margin(),
            renew_idle_after: settings.renew_idle_after,
            hold_max: settings.hold_max,
        };
        match kind {
            TimeoutKind::Payment | TimeoutKind::Timer => bounds,
            TimeoutKind::Gateway => Bounds {
                orders_max: bounds.orders_max.min(GATEWAY_BATCH_ORDERS_MAX),
                prefetch_max: bounds.prefetch_max.min(GATEWAY_PREFETCH_MESSAGES),
                ..bounds
            },
        }
    }
}
