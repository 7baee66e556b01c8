//! What the sweep does in a round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use book::{Actor, BookError, PageRequest};
use order::{Attempts, OrderId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::asking::ASKING_MAX;
use crate::gateways::Gateways;
use crate::handler::{Context, Handler};
use crate::metrics::WorkerMetrics;
use crate::outcome::Outcome;
use crate::patience::{Interrupted, Patience};
use crate::plan::{Mode, UnknownOrders};
use crate::settler::Settler;
use crate::shared_book::SharedBook;
use crate::stuck::Stuck;

/// Rounds over all orders that are past their deadline.
pub(crate) struct Rounds {
    book: SharedBook,
    /// Closes orders for which no gateway must be asked, and tells which orders need one.
    settler: Arc<Settler>,
    /// For those.
    gateway_settler: Arc<Settler>,
    context: Context,
    metrics: WorkerMetrics,
    stuck: Stuck,
    /// Gateways that are being asked.
    asking: Option<JoinHandle<HashMap<OrderId, Outcome>>>,
}

/// Why a round did not come to its end.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The program is to stop, or a server was away for too long.
    Interrupted,
    /// Another process may sweep now.
    LeadLost(BookError),
    /// The book cannot tell which orders are overdue.
    NoPages,
}

/// How long a server that is away is waited for within a round.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many orders' gateways are asked together.
const GATEWAY_ORDERS_MAX: usize = 256;

/// How many orders that have ended are asked about in a round.
const UNFINISHED_MAX: usize = 1024;

impl Rounds {
    pub(crate) fn new(book: SharedBook, gateways: &Gateways, shutdown: CancellationToken) -> Self {
        let metrics = gateways.metrics();
        let settler = |mode| Arc::new(Settler::new(&book, gateways, mode, UnknownOrders::default()));
        let patience = Patience::endless(shutdown, metrics.waits.clone());
        Self {
            settler: settler(Mode::Sweep),
            gateway_settler: settler(Mode::SweepGateway),
            context: Context { by: Actor::on_timeout("sweep"), trace: None, patience },
            book,
            metrics,
            stuck: Stuck::default(),
            asking: None,
        }
    }

    /// Looks at every order that is past its deadline by more than the grace.
    /// Before each page, `leads` makes sure that no other process sweeps.
    pub(crate) async fn round<F: Future<Output = Result<(), BookError>>>(
        &mut self,
        grace: Duration,
        orders_max: usize,
        leads: impl Fn() -> F,
    ) -> Result<(), Unfinished> {
        self.take_answers().await;
        let (mut after, mut seen, mut to_ask) = (None, HashSet::new(), Vec::new());
        loop {
            leads().await.map_err(Unfinished::LeadLost)?;
            let page = PageRequest { grace, after, orders_max };
            let patience = self.context.patience.lasting(PATIENCE);
            let page = patience
                .until("overdue orders cannot be looked up", |_| false, || self.book.book.overdue(&page))
                .await?;
            let Ok(Some(page)) = page else { return Err(Unfinished::NoPages) };
            let now = Instant::now();
            let due = page.ids.iter().filter(|id| self.stuck.is_due(id, now)).cloned().collect();
            let outcomes = settle(&self.settler, due, &self.context, PATIENCE).await?;
            self.take_stock(&outcomes).await;
            let handed_over = |(id, outcome)| matches!(outcome, Outcome::HandedOver(_)).then_some(id);
            to_ask.extend(outcomes.into_iter().filter_map(handed_over));
            seen.extend(page.ids);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.stuck.keep(&seen);
        to_ask.extend(self.unfinished().await?);
        self.ask(to_ask);
        self.metrics.sweep_stuck_orders.set(i64::try_from(self.stuck.len()).unwrap_or(i64::MAX));
        if let Some(example) = self.stuck.example() {
            let orders = self.stuck.len();
            tracing::warn!(orders, %example, "orders are past their deadline and cannot be settled; `overdue order show` tells more of one");
        }
        Ok(())
    }

    /// Orders that have ended and have a payment that could still be made. None while gateways are being asked, or cannot be: the
    /// look at them would be put off without being taken.
    async fn unfinished(&self) -> Result<Vec<OrderId>, Unfinished> {
        if self.asking.is_some() || self.gateway_settler.closed_for().is_some() {
            return Ok(Vec::new());
        }
        let patience = self.context.patience.lasting(PATIENCE);
        let look = || self.book.book.unfinished(UNFINISHED_MAX);
        Ok(patience.until("payments of ended orders cannot be looked up", |_| false, look).await?.unwrap_or_default())
    }

    /// Has gateways asked beside the rounds, unless they are being asked still. Slow gateways hold up no other order.
    fn ask(&mut self, ids: Vec<OrderId>) {
        if ids.is_empty() || self.asking.is_some() {
            return;
        }
        let (settler, context) = (Arc::clone(&self.gateway_settler), self.context.clone());
        self.asking = Some(tokio::spawn(async move {
            let mut outcomes = HashMap::new();
            for chunk in ids.chunks(GATEWAY_ORDERS_MAX) {
                match settle(&settler, chunk.to_vec(), &context, ASKING_MAX + PATIENCE).await {
                    Ok(settled) => outcomes.extend(settled),
                    Err(_) => break,
                }
            }
            outcomes
        }));
    }

    /// Takes over how the orders ended whose gateways were asked, once all have been.
    async fn take_answers(&mut self) {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished())
            && let Ok(outcomes) = asking.await
        {
            self.take_stock(&outcomes).await;
        }
    }

    /// Counts orders that were rescued, and remembers those that could not be settled.
    async fn take_stock(&mut self, outcomes: &HashMap<OrderId, Outcome>) {
        let (mut settled, now) = (Vec::new(), Instant::now());
        for (id, outcome) in outcomes {
            match outcome {
                Outcome::HandedOver(_) => {}
                Outcome::Retried(_) | Outcome::Held(_) | Outcome::LookAgain { .. } | Outcome::Parked { .. } => {
                    self.stuck.put_off(id, now);
                }
                Outcome::Closed | Outcome::Paid => {
                    settled.push(id.clone());
                    self.stuck.settled(id);
                }
                Outcome::Late | Outcome::Fired | Outcome::Unchanged | Outcome::Waiting(_) => self.stuck.settled(id),
            }
        }
        if settled.is_empty() {
            return;
        }
        // Where the book cannot tell, it may have been a message that was lost.
        let moved = self.book.book.moved(&settled).await.unwrap_or_default();
        let (moved, rescued) = (moved.len() as u64, settled.len().saturating_sub(moved.len()) as u64);
        self.metrics.rescued.inc_by(rescued);
        self.metrics.moved.inc_by(moved);
        if rescued > 0 {
            tracing::warn!(orders = rescued, "the sweep has settled orders that no message brought in time");
        }
        if moved > 0 {
            tracing::info!(orders = moved, "the sweep has settled orders whose deadline was moved into the past");
        }
    }
}

impl From<Interrupted> for Unfinished {
    fn from(Interrupted: Interrupted) -> Self {
        Self::Interrupted
    }
}

async fn settle(
    settler: &Settler,
    ids: Vec<OrderId>,
    context: &Context,
    patience: Duration,
) -> Result<HashMap<OrderId, Outcome>, Interrupted> {
    let context = Context { patience: context.patience.lasting(patience), ..context.clone() };
    let due: BTreeMap<OrderId, Attempts> = ids.into_iter().map(|id| (id, Attempts::default())).collect();
    Ok(settler.settle(&due, &context).await?.outcomes)
}

#[cfg(test)]
mod tests {
    use order::{Deadline, OrderFacts, OrderStatus, TradeState};
    use payment::GatewayFault;

    use super::*;
    use crate::fakes::{FakeBook, FakeGateway, gateways, id, now, overdue, overdue_at_gateway};

    const GRACE: Duration = Duration::from_secs(60);

    fn rounds(book: &Arc<FakeBook>, gateways: &Gateways) -> Rounds {
        Rounds::new(SharedBook::new(Arc::clone(book) as _), gateways, CancellationToken::new())
    }

    async fn round(rounds: &mut Rounds) -> Result<(), Unfinished> {
        rounds.round(GRACE, 3, async || Ok(())).await
    }

    /// An order that was due so long ago.
    fn missed(facts: OrderFacts, ago: Duration) -> OrderFacts {
        OrderFacts { deadline: Deadline::at(now() - ago), ..facts }
    }

    #[tokio::test]
    async fn a_round_closes_every_page_of_orders_past_the_grace_and_no_other() {
        let book = FakeBook::with(&[("fresh", missed(overdue(), GRACE - Duration::from_secs(1)))]);
        for number in 0..10 {
            let facts = missed(overdue(), GRACE + Duration::from_secs(1 + number));
            book.state().orders.insert(id(&format!("o-{number}")), facts);
        }
        let gateways = Gateways::none();
        let mut rounds = rounds(&book, &gateways);
        round(&mut rounds).await.unwrap();
        assert!((0..10).all(|number| book.status(&format!("o-{number}")) == OrderStatus::Closed));
        assert_eq!(book.status("fresh"), OrderStatus::Pending);
        assert_eq!((gateways.metrics().rescued.get(), gateways.metrics().sweep_stuck_orders.get()), (10, 0));
    }

    #[tokio::test]
    async fn gateways_are_asked_beside_the_rounds() {
        let gate = CancellationToken::new();
        let gateway = FakeGateway { gate: gate.clone(), ..FakeGateway::in_state(TradeState::Closed) };
        let gateways = gateways(gateway);
        let late = 2 * GRACE;
        let book = FakeBook::with(&[("1", missed(overdue_at_gateway(), late)), ("2", missed(overdue(), late))]);
        let mut rounds = rounds(&book, &gateways);
        round(&mut rounds).await.unwrap();
        assert_eq!(book.status("2"), OrderStatus::Closed, "a slow gateway holds up no other order");
        assert_eq!(book.status("1"), OrderStatus::Pending);
        gate.cancel();
        while book.status("1") != OrderStatus::Closed {
            tokio::task::yield_now().await;
        }
        while !rounds.asking.as_ref().is_some_and(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        round(&mut rounds).await.unwrap();
        assert_eq!(gateways.metrics().rescued.get(), 2);
    }

    #[tokio::test]
    async fn an_order_that_cannot_be_settled_is_left_alone_for_some_rounds() {
        let gateway = FakeGateway::answering(Err(GatewayFault::Protocol("not signed".to_owned())));
        let queries = Arc::clone(&gateway.queries);
        let gateways = gateways(gateway);
        let book = FakeBook::with(&[("1", missed(overdue_at_gateway(), 2 * GRACE))]);
        let mut rounds = rounds(&book, &gateways);
        for _ in 0..5 {
            round(&mut rounds).await.unwrap();
            while rounds.asking.as_ref().is_some_and(|asking| !asking.is_finished()) {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(queries.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!((gateways.metrics().sweep_stuck_orders.get(), book.status("1")), (1, OrderStatus::Pending));
    }

    #[tokio::test]
    async fn a_lost_lead_ends_a_round_before_anything_is_closed() {
        let book = FakeBook::with(&[("1", missed(overdue(), 2 * GRACE))]);
        let lost = async || Err(BookError::Away("the connection is gone".to_owned()));
        let ended = rounds(&book, &Gateways::none()).round(GRACE, 3, lost).await;
        assert!(matches!(ended, Err(Unfinished::LeadLost(_))));
        assert_eq!(book.status("1"), OrderStatus::Pending);
    }

    #[tokio::test]
    async fn a_book_that_cannot_tell_what_is_overdue_has_no_sweep() {
        let book = FakeBook::with(&[("1", missed(overdue(), 2 * GRACE))]);
        book.state().no_pages = true;
        let ended = round(&mut rounds(&book, &Gateways::none())).await;
        assert!(matches!(ended, Err(Unfinished::NoPages)));
    }
}
