//! Closing an order because somebody looks at it: whoever shows, pays or ends an order that is past its deadline need
//! not wait for its message.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use order::{Attempts, OrderId};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::counters::add;
use crate::settling::{Outcome, Settler, UnknownOrders};
use crate::{Actor, Gateways, OrderBook, WorkerCounters};

/// Settles orders one at a time, on the same path as messages do. Nothing depends on it: what it does not get done, the
/// order's message or the sweep does.
#[derive(Clone)]
pub struct PassiveClose {
    settler: Settler,
    permits: Arc<Semaphore>,
    /// Orders that are under way, and those that were a moment ago and could not be settled: whoever looks at one of
    /// these again and again must not have its gateway asked each time.
    recent: Arc<Mutex<HashMap<OrderId, Look>>>,
}

/// What somebody has begun.
#[derive(Clone)]
enum Look {
    /// It ends when its sender is dropped.
    UnderWay(watch::Receiver<()>),
    /// It came to nothing; not again before then.
    InVain(Instant),
}

/// How many orders may be under way at a time. More than that are left to their messages.
const IN_FLIGHT_MAX: usize = 16;

/// How long one may be under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an order is left alone that could not be settled.
const IN_VAIN_FOR: Duration = Duration::from_secs(5);

/// How many such orders are remembered.
const RECENT_MAX: usize = 10_000;

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
            arms: true,
            traceparent: None,
            unknown: UnknownOrders::default(),
            late: Arc::default(),
            counters,
            shutdown,
            patience_ends: None,
        };
        Self { settler, permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)), recent: Arc::default() }
    }

    /// Where calls, faults and closes are counted.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.settler.counters)
    }

    /// Settles the order if its deadline has passed, and waits for that, but not longer than `wait`: it goes on by
    /// itself then. Whoever comes while somebody is at it waits for the same. `actor` is who the order log says it was;
    /// `None`: nobody in particular. How the order stands afterwards is for the caller to look up.
    pub async fn look_at(&self, id: &OrderId, actor: Option<Actor>, wait: Duration) {
        if let Some(mut ended) = self.begin(id, actor) {
            // Not an error either way: it goes on by itself, or has broken and the message will do it.
            let _ = tokio::time::timeout(wait, ended.changed()).await;
        }
    }

    /// Begins, unless somebody has; what tells when it has ended. `None`: it is left to the order's message.
    fn begin(&self, id: &OrderId, actor: Option<Actor>) -> Option<watch::Receiver<()>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match recent.get(id) {
            Some(Look::UnderWay(ended)) => return Some(ended.clone()),
            // A person who has it done now need not wait.
            Some(Look::InVain(until)) if *until > now && actor.is_none() => return None,
            _ => {}
        }
        if recent.len() >= RECENT_MAX {
            recent.retain(|_, look| !matches!(look, Look::InVain(until) if *until <= now));
        }
        if recent.len() >= RECENT_MAX {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (under_way, ended) = watch::channel(());
        recent.insert(id.clone(), Look::UnderWay(ended.clone()));
        drop(recent);
        let mut settler = self.settler.clone();
        settler.patience_ends = Some(now + PATIENCE);
        if let Some(actor) = actor {
            settler.actor = actor;
        }
        settler.traceparent = trace::onward(&Span::current(), &[]);
        let (id, recent) = (id.clone(), Arc::clone(&self.recent));
        tokio::spawn(async move {
            let outcome = settler.settle(&BTreeMap::from([(id.clone(), Attempts::default())])).await.ok();
            let outcome = outcome.and_then(|settled| settled.outcomes.get(&id).cloned());
            if matches!(outcome, Some(Outcome::Closed | Outcome::Paid)) {
                add(&settler.counters.passively_settled, 1);
            }
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Some(Outcome::Closed | Outcome::Paid | Outcome::Unchanged | Outcome::Waiting(_)) => recent.remove(&id),
                _ => recent.insert(id, Look::InVain(Instant::now() + IN_VAIN_FOR)),
            };
            drop((under_way, permit));
        });
        Some(ended)
    }
}
