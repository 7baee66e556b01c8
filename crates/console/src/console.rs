//! What the console works with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker::{Broker, Management, Topology};
use database::{Client, SqlxPool};
use order::Lanes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker::PassiveClose;

use crate::access::Access;
use crate::refusals::Refusals;
use crate::snapshot::{Queues, Snapshots};

/// The parts of a process that the console shows, and acts by.
pub struct Parts {
    /// For looking, and for what operators do.
    pub client: Client,
    /// For orders and timers.
    pub pool: SqlxPool,
    /// For messages that are sent in again, and for queues; `None`: the process knows no broker.
    pub broker: Option<Broker>,
    /// The queues.
    pub topology: Topology,
    /// What tells more of queues, with the virtual host.
    pub management: Option<(Management, String)>,
    /// How long the broker may take to confirm.
    pub confirm_timeout: Duration,
    /// Closes orders at once, where the process can.
    pub passive: Option<PassiveClose>,
    /// The lanes, for telling the way that a message takes.
    pub lanes: Lanes,
    /// Runs doctor and audit.
    pub checks: Arc<dyn CheckRunner>,
    /// Who may come.
    pub access: Access,
    /// What operators have begun and goes on by itself: whoever ends the process waits for it.
    pub tasks: TaskTracker,
    /// The program's wish to stop.
    pub shutdown: CancellationToken,
}

/// Runs the checks of the program.
#[async_trait]
pub trait CheckRunner: Send + Sync {
    /// What is wrong with the deployment, as JSON: `findings`, each with `object`, `problem` and `advice`, and
    /// `unchecked`.
    ///
    /// # Errors
    /// A sentence.
    async fn doctor(&self) -> Result<String, String>;

    /// How the books stand, as JSON: `clean`, `orders` and `checks`, each with `name`, `rule`, `violations` and
    /// `examples`.
    ///
    /// # Errors
    /// A sentence.
    async fn audit(&self) -> Result<String, String>;
}

/// The console of a process.
pub(crate) struct Console {
    pub(crate) client: Client,
    pub(crate) pool: SqlxPool,
    pub(crate) broker: Option<Broker>,
    pub(crate) confirm_timeout: Duration,
    pub(crate) passive: Option<PassiveClose>,
    pub(crate) lanes: Lanes,
    pub(crate) checks: Arc<dyn CheckRunner>,
    pub(crate) access: Access,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) snapshots: Snapshots,
    pub(crate) refusals: Refusals,
    pub(crate) warnings: trace::Throttle,
}

impl Console {
    pub(crate) fn new(parts: Parts) -> Self {
        let queues = match (parts.management, &parts.broker) {
            (Some((management, vhost)), _) => Queues::Management(management, vhost),
            (None, Some(broker)) => Queues::Amqp(Box::new((broker.clone(), parts.topology))),
            (None, None) => Queues::Nowhere,
        };
        Self {
            snapshots: Snapshots::new(parts.client.clone(), queues),
            client: parts.client,
            pool: parts.pool,
            broker: parts.broker,
            confirm_timeout: parts.confirm_timeout,
            passive: parts.passive,
            lanes: parts.lanes,
            checks: parts.checks,
            access: parts.access,
            tasks: parts.tasks,
            shutdown: parts.shutdown,
            refusals: Refusals::default(),
            warnings: trace::Throttle::default(),
        }
    }
}
