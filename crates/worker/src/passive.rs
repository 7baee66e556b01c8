//! Closing an order because a client or a person looks at it: an order past its deadline need not wait for its message.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use book::Actor;
use moka::sync::Cache;
use order::{Attempts, OrderId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::gateways::Gateways;
use crate::handler::Context;
use crate::metrics::WorkerMetrics;
use crate::outcome::Outcome;
use crate::patience::Patience;
use crate::plan::{Mode, UnknownOrders};
use crate::settler::Settler;
use crate::shared_book::SharedBook;

/// Settles orders one at a time, on the same path as messages do. Nothing depends on it: an order that it does not settle is
/// settled by its message or by the sweep.
#[derive(Clone)]
pub struct PassiveClose {
    settler: Arc<Settler>,
    by: Actor,
    patience: Patience,
    metrics: WorkerMetrics,
    permits: Arc<Semaphore>,
    /// Orders that are being settled. The receiver learns the end when its sender is dropped.
    under_way: Arc<Mutex<HashMap<OrderId, watch::Receiver<()>>>>,
    /// Orders that could not be settled a moment ago: an order that is looked at again and again must not have its gateway
    /// asked each time.
    in_vain: Cache<OrderId, ()>,
}

/// How many orders may be under way at a time. More are left to their messages.
const IN_FLIGHT_MAX: usize = 16;

/// How long one may be under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an order is left alone that could not be settled.
const IN_VAIN_FOR: Duration = Duration::from_secs(5);

/// How many such orders are remembered.
const IN_VAIN_MAX: u64 = 10_000;

impl PassiveClose {
    /// Settles by this book and these gateways, until `shutdown`.
    #[must_use]
    pub fn new(book: &SharedBook, gateways: &Gateways, shutdown: CancellationToken) -> Self {
        let metrics = gateways.metrics();
        Self {
            settler: Arc::new(Settler::new(book, gateways, Mode::Passive, UnknownOrders::default())),
            by: Actor::on_timeout("passive"),
            patience: Patience::endless(shutdown, metrics.waits.clone()),
            metrics,
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            under_way: Arc::default(),
            in_vain: Cache::builder().max_capacity(IN_VAIN_MAX).time_to_live(IN_VAIN_FOR).build(),
        }
    }

    /// Settles the order if its deadline has passed, and waits for that, but not longer than `wait`; then it goes on by
    /// itself. Two callers at the same time wait for the same. `by` is what the order log says, for a person who has it done.
    /// How the order stands afterwards is for the caller to look up.
    pub async fn look_at(&self, id: &OrderId, by: Option<Actor>, wait: Duration) {
        if let Some(mut ended) = self.begin(id, by) {
            // A timeout is no error, and an end without a word is none: the order's message will do it.
            let _ = tokio::time::timeout(wait, ended.changed()).await;
        }
    }

    /// Begins, unless it has begun already. The receiver learns the end. `None`: the order is left to its message.
    fn begin(&self, id: &OrderId, by: Option<Actor>) -> Option<watch::Receiver<()>> {
        let mut under_way = self.under_way();
        if let Some(ended) = under_way.get(id) {
            return Some(ended.clone());
        }
        // A person who has it done now need not wait.
        if by.is_none() && self.in_vain.contains_key(id) {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (end, ended) = watch::channel(());
        under_way.insert(id.clone(), ended.clone());
        drop(under_way);
        let context = Context {
            by: by.unwrap_or_else(|| self.by.clone()),
            trace: trace::onward(&Span::current(), &[]),
            patience: self.patience.lasting(PATIENCE),
        };
        let under_way = UnderWay { passive: self.clone(), id: id.clone(), end, permit };
        tokio::spawn(self.clone().settle(id.clone(), context, under_way));
        Some(ended)
    }

    async fn settle(self, id: OrderId, context: Context, under_way: UnderWay) {
        let due = BTreeMap::from([(id.clone(), Attempts::default())]);
        let settled = self.settler.settle(&due, &context).await.ok();
        match settled.and_then(|mut settled| settled.outcomes.remove(&id)) {
            Some(Outcome::Closed | Outcome::Paid) => drop(self.metrics.passively_settled.inc()),
            Some(Outcome::Unchanged | Outcome::Waiting(_)) => {}
            _ => self.in_vain.insert(id.clone(), ()),
        }
        drop(under_way);
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<OrderId, watch::Receiver<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while an order is being settled, and dropped even if that panics.
#[expect(dead_code, reason = "end and permit act when they are dropped")]
struct UnderWay {
    passive: PassiveClose,
    id: OrderId,
    end: watch::Sender<()>,
    permit: OwnedSemaphorePermit,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.passive.under_way().remove(&self.id);
    }
}
