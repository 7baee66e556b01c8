//! The second way to the same close: now and then, orders that are past their deadline are looked for in the database.
//! What is found there has been missed by the messages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use order::{Attempts, OrderId};
use retry::Policy;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::counters::add;
use crate::settling::{ASKING_MAX, Interrupted, Outcome, Settler, UnknownOrders};
use crate::sweep_book::Lead;
use crate::{Actor, BookError, Gateways, OrderBook, WorkerCounters};

/// How the sweep works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepSettings {
    /// How long it rests between two rounds, varied at random by half of itself.
    pub every: Duration,
    /// How long after its deadline an order is left to the messages.
    pub grace: Duration,
    /// How many orders are read at a time.
    pub page_orders: usize,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), grace: Duration::from_secs(60), page_orders: 1024 }
    }
}

/// Looks for orders that no message has brought, one process at a time, without a broker.
pub struct Sweep {
    book: OrderBook,
    /// Closes what no gateway has to be asked for, and tells which orders need one.
    settler: Settler,
    /// For those.
    asker: Settler,
    settings: SweepSettings,
    counters: Arc<WorkerCounters>,
    /// Orders that could not be settled, and when they are looked at again: a gateway that is down would be asked for
    /// all of them in each round.
    stuck: HashMap<OrderId, Stuck>,
    /// Gateways that are being asked.
    asking: Option<JoinHandle<HashMap<OrderId, Outcome>>>,
}

struct Stuck {
    rounds: u32,
    again_at: Instant,
}

/// Between looks at an order that could not be settled.
const STUCK: Policy = Policy { initial: Duration::from_secs(20), max: Duration::from_mins(10) };

/// Of how many such orders it is kept when they are to be looked at again.
const STUCK_MAX: usize = 100_000;

/// How long a server that is away is waited for within a round.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many orders' gateways are asked together.
const ASKED_TOGETHER_MAX: usize = 256;

impl Sweep {
    /// A sweep that has not begun. Its findings count in `gateways`' counters.
    #[must_use]
    pub fn new(book: OrderBook, gateways: Gateways, settings: SweepSettings, shutdown: CancellationToken) -> Self {
        let counters = gateways.counters();
        let settler = Settler {
            book: book.clone(),
            gateways,
            asks: false,
            actor: Actor::on_timeout("sweep"),
            arms: true,
            traceparent: None,
            unknown: UnknownOrders::default(),
            late: Arc::default(),
            counters: Arc::clone(&counters),
            shutdown,
            patience_ends: None,
        };
        let asker = Settler { asks: true, ..settler.clone() };
        Self { book, settler, asker, settings, counters, stuck: HashMap::new(), asking: None }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until told to stop. While another process sweeps it waits to take over.
    pub async fn run(mut self) {
        let shutdown = self.settler.shutdown.clone();
        while !shutdown.is_cancelled() {
            match self.book.lead().await {
                Ok(Some(lead)) => {
                    tracing::info!("sweeping: no other process does");
                    self.counters.sweep_leader.store(1, Ordering::Relaxed);
                    self.sweep_on(lead).await;
                    self.counters.sweep_leader.store(0, Ordering::Relaxed);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot find out whether another process sweeps"),
            }
            self.rest().await;
        }
    }

    /// Round after round, until the lead is lost.
    async fn sweep_on(&mut self, mut lead: Lead) {
        while !self.settler.shutdown.is_cancelled() {
            match self.round(&mut lead).await {
                Ok(()) => add(&self.counters.sweep_rounds, 1),
                Err(Unfinished::Interrupted) => {}
                Err(Unfinished::Book(error)) => {
                    tracing::warn!(%error, "the sweep has lost its connection, and with it the lead");
                    return;
                }
            }
            self.rest().await;
        }
    }

    /// Looks at everything that is past its deadline by more than the grace.
    async fn round(&mut self, lead: &mut Lead) -> Result<(), Unfinished> {
        self.take_answers().await;
        let mut after = None;
        let (mut seen, mut to_ask) = (HashSet::new(), Vec::new());
        loop {
            let (ids, next) = lead.overdue(self.settings.grace, after.as_ref(), self.settings.page_orders).await?;
            let begun = Instant::now();
            let due = ids.iter().filter(|id| self.stuck.get(id).is_none_or(|stuck| stuck.again_at <= begun));
            let outcomes = settle(&mut self.settler, due.cloned().collect(), PATIENCE).await?;
            self.take_stock(&outcomes);
            to_ask.extend(outcomes.into_iter().filter_map(|(id, outcome)| match outcome {
                Outcome::HandedOver(_) => Some(id),
                _ => None,
            }));
            seen.extend(ids);
            after = next;
            if after.is_none() {
                break;
            }
        }
        self.stuck.retain(|id, _| seen.contains(id));
        self.ask(to_ask);
        self.counters.stuck.store(self.stuck.len() as u64, Ordering::Relaxed);
        lead.tidy_up().await?;
        if let Some((example, _)) = self.stuck.iter().next() {
            let orders = self.stuck.len();
            tracing::warn!(orders, %example, "orders are past their deadline and cannot be settled; `overdue order show` tells more of one");
        }
        Ok(())
    }

    /// Has gateways asked beside the rounds, unless they are being asked still: slow ones hold up nobody else.
    fn ask(&mut self, ids: Vec<OrderId>) {
        if ids.is_empty() || self.asking.is_some() {
            return;
        }
        let mut asker = self.asker.clone();
        self.asking = Some(tokio::spawn(async move {
            let mut outcomes = HashMap::new();
            for chunk in ids.chunks(ASKED_TOGETHER_MAX) {
                match settle(&mut asker, chunk.to_vec(), ASKING_MAX + PATIENCE).await {
                    Ok(settled) => outcomes.extend(settled),
                    Err(_) => break,
                }
            }
            outcomes
        }));
    }

    /// What came of asking, if it has come to its end.
    async fn take_answers(&mut self) {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished())
            && let Ok(outcomes) = asking.await
        {
            self.take_stock(&outcomes);
        }
    }

    /// Counts what was rescued, and remembers what could not be settled.
    fn take_stock(&mut self, outcomes: &HashMap<OrderId, Outcome>) {
        let mut rescued = 0;
        for (id, outcome) in outcomes {
            match outcome {
                Outcome::Closed | Outcome::Paid => rescued += 1,
                Outcome::Retried | Outcome::Held | Outcome::LookAgain { .. } | Outcome::Parked { .. } => {
                    let rounds = self.stuck.get(id).map_or(1, |stuck| stuck.rounds.saturating_add(1));
                    if rounds > 1 || self.stuck.len() < STUCK_MAX {
                        let again_at = Instant::now() + STUCK.delay(rounds);
                        self.stuck.insert(id.clone(), Stuck { rounds, again_at });
                    }
                    continue;
                }
                _ => {}
            }
            if !matches!(outcome, Outcome::HandedOver(_)) {
                self.stuck.remove(id);
            }
        }
        add(&self.counters.rescued, rescued);
        if rescued > 0 {
            tracing::warn!(orders = rescued, "the sweep has settled orders that no message brought in time");
        }
    }

    async fn rest(&self) {
        let rest = Policy { initial: self.settings.every, max: self.settings.every }.delay(1);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = self.settler.shutdown.cancelled() => {}
        }
    }
}

/// Why a round came to no end.
enum Unfinished {
    /// The program is to stop, or the database was away for too long.
    Interrupted,
    /// The connection that holds the lead is gone.
    Book(BookError),
}

impl From<BookError> for Unfinished {
    fn from(error: BookError) -> Self {
        Self::Book(error)
    }
}

async fn settle(
    settler: &mut Settler,
    ids: Vec<OrderId>,
    patience: Duration,
) -> Result<HashMap<OrderId, Outcome>, Unfinished> {
    settler.patience_ends = Some(Instant::now() + patience);
    let orders: BTreeMap<OrderId, Attempts> = ids.into_iter().map(|id| (id, Attempts::default())).collect();
    match settler.settle(&orders).await {
        Ok(settled) => Ok(settled.outcomes),
        Err(Interrupted) => Err(Unfinished::Interrupted),
    }
}
