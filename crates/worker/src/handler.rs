use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use book::{Actor, ServerTime};
use order::{Attempts, TimeoutId};
use trace::TraceParent;

use crate::outcome::Settled;
use crate::patience::{Interrupted, Patience};

/// Handles what is due for one kind of timeout.
#[async_trait]
pub(crate) trait Handler: Send + Sync {
    /// Handles these orders, or timers, with their attempts so far, until the outcome of each is known.
    async fn handle(
        &self,
        due: &BTreeMap<TimeoutId, Attempts>,
        context: &Context,
    ) -> Result<Settled<TimeoutId>, Interrupted>;

    /// Waits until the servers answer that handling needs. While they do not, nothing needs to be taken from a queue. Returns the
    /// book's time, if it tells.
    async fn is_ready(&self, patience: &Patience) -> Result<Option<ServerTime>, Interrupted>;

    /// How long nothing can be handled that takes a gateway; `None`: it can, or none is needed.
    fn closed_for(&self) -> Option<Duration>;
}

/// On whose behalf they are handled, as part of which trace, and how long servers that are away are waited for.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) by: Actor,
    pub(crate) trace: Option<TraceParent>,
    pub(crate) patience: Patience,
}
