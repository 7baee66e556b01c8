//! Closing an order because somebody looks at it: whoever shows, pays or ends an order that is past its deadline need
//! not wait for its message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Tried;
use order::OrderId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::counters::add;
use crate::settling::{Outcome, Settler, UnknownOrders};
use crate::{Actor, Gateways, OrderBook, WorkerCounters};

/// Settles orders one at a time, on the same path as messages do. Nothing depends on it: what it does not get done, the
/// order's message or the sweep does.
#[derive(Clone)]
pub struct PassiveClose {
    settler: Settler,
    permits: Arc<Semaphore>,
}

/// How many orders may be under way at a time. More than that are left to their messages.
const IN_FLIGHT_MAX: usize = 32;

/// How long one may be under way.
const PATIENCE: Duration = Duration::from_secs(30);

impl PassiveClose {
    /// Asks these gateways, and counts in their counters.
    #[must_use]
    pub fn new(book: OrderBook, gateways: Gateways, shutdown: CancellationToken) -> Self {
        let counters = gateways.counters();
        let settler = Settler {
            book,
            gateways,
            asks: true,
            actor: Actor::on_timeout("passive"),
            unknown: UnknownOrders::default(),
            late: Arc::default(),
            counters,
            shutdown,
            patience_ends: None,
        };
        Self { settler, permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Where calls, faults and closes are counted.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.settler.counters)
    }

    /// Settles the order if its deadline has passed, and waits for that, but not longer than `wait`: it goes on by
    /// itself then. `actor` is who the order log says it was; `None`: nobody in particular. How the order stands
    /// afterwards is for the caller to look up.
    pub async fn look_at(&self, id: &OrderId, actor: Option<Actor>, wait: Duration) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let mut settler = self.settler.clone();
        settler.patience_ends = Some(Instant::now() + PATIENCE);
        if let Some(actor) = actor {
            settler.actor = actor;
        }
        let id = id.clone();
        let work = tokio::spawn(async move {
            let settled = settler.settle(&BTreeMap::from([(id.clone(), Tried::default())])).await;
            if let Ok(settled) = settled {
                if matches!(settled.outcomes.get(&id), Some(Outcome::Closed | Outcome::Paid)) {
                    add(&settler.counters.passively_settled, 1);
                }
                if let Err(error) = settler.book.arm(&settled.second_looks()).await {
                    tracing::warn!(%error, order = %id, "a second look at a trade could not be arranged");
                }
            }
            drop(permit);
        });
        // Not an error either way: it goes on by itself, or has broken and the message will do it.
        let _ = tokio::time::timeout(wait, work).await;
    }
}
