//! A book and a gateway behind their seams, for tests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use book::{
    Actor, BookError, BookResult, Bookmark, Closed, Closing, Credited, ItemReply, Loaded, MoneyAside, OrderBook,
    OverduePage, PageRequest, Payment, Reply, Revision, ServerTime, TradeNote,
};
use broker::{DeliveryTag, Incoming, wire};
use http::HeaderMap;
use order::{
    Attempts, CloseOutcome, Deadline, Money, OrderFacts, OrderId, OrderStatus, PaymentFacts, PaymentState, Prepay,
    Receipt, TimeoutId, Trade, TradeState,
};
use payment::{GatewayFault, Notification, PaymentGateway, Refund, RefundRequest};
use prometheus_client::metrics::counter::Counter;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use trace::TraceParent;

use crate::gateway_settings::GatewaySettings;
use crate::gateways::Gateways;
use crate::handler::Context;
use crate::patience::Patience;

/// The book's time in tests.
pub(crate) fn now() -> OffsetDateTime {
    "2026-11-22T08:30:00Z".parse::<Deadline>().unwrap().instant()
}

pub(crate) fn id(name: &str) -> OrderId {
    OrderId::new(name).unwrap()
}

/// These orders, without an attempt so far.
pub(crate) fn due(names: &[&str]) -> BTreeMap<OrderId, Attempts> {
    names.iter().map(|name| (id(name), Attempts::default())).collect()
}

/// A pending order, a second past its deadline.
pub(crate) fn overdue() -> OrderFacts {
    OrderFacts { status: OrderStatus::Pending, deadline: deadline(), payments: Vec::new() }
}

/// A message of ours, with these orders.
pub(crate) fn of_ours(tag: u64, orders: &[(OrderId, Deadline)]) -> Incoming {
    let ids: Vec<(TimeoutId, Deadline)> = orders.iter().map(|(id, due)| (id.clone().into(), *due)).collect();
    Incoming::untouched_by_a_broker("now.payment", &wire::encode(&ids)).of_ours(DeliveryTag::of(tag))
}

pub(crate) fn deadline() -> Deadline {
    Deadline::at(now() - Duration::from_secs(1))
}

/// A pending order, a second past its deadline, with a payment at `wechat`.
pub(crate) fn overdue_at_gateway() -> OrderFacts {
    OrderFacts { payments: vec![payment_facts()], ..overdue() }
}

pub(crate) fn payment_facts() -> PaymentFacts {
    PaymentFacts {
        gateway: "wechat".to_owned(),
        trade_no: "842317".to_owned(),
        amount: cny(1999),
        prepay: Prepay::Attempted,
        created_at: now() - Duration::from_mins(30),
        not_found_at: None,
        payable_until: None,
        state: PaymentState::Open,
    }
}

pub(crate) fn receipt() -> Receipt {
    Receipt { transaction_id: "4200".to_owned(), paid_at: None, amount: cny(1999), combined: false }
}

pub(crate) fn cny(minor: i64) -> Money {
    Money { minor, currency: "CNY".to_owned() }
}

/// For the worker, with patience without an end.
pub(crate) fn context() -> Context {
    let patience = Patience::endless(CancellationToken::new(), Counter::default());
    Context { by: Actor::on_timeout("worker"), trace: None, patience }
}

/// One gateway, `wechat`, behind the usual bounds.
pub(crate) fn gateways(gateway: FakeGateway) -> Gateways {
    let gateway: Arc<dyn PaymentGateway> = Arc::new(gateway);
    Gateways::new(HashMap::from([("wechat".to_owned(), gateway)]), GatewaySettings::default())
}

/// A book in memory. It guards by deadline and revision, as every book must.
#[derive(Default)]
pub(crate) struct FakeBook {
    state: Mutex<FakeState>,
}

#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) orders: HashMap<OrderId, OrderFacts>,
    /// Each change of an order makes a new revision.
    pub(crate) revisions: HashMap<OrderId, u32>,
    /// Replies to the next calls about an order, in place of the true ones.
    pub(crate) replies: HashMap<OrderId, VecDeque<ItemReply<()>>>,
    /// Orders for which every call that changes something is refused as a whole.
    pub(crate) poison: Vec<OrderId>,
    /// A call about more orders than this is too slow.
    pub(crate) slow_above: Option<usize>,
    /// Orders for which every call that changes something is too slow, or the book too busy.
    pub(crate) slow: Vec<OrderId>,
    pub(crate) busy: Vec<OrderId>,
    /// What is wrong for every order alike.
    pub(crate) unready: Option<BookError>,
    /// Errors of the next calls.
    pub(crate) errors: VecDeque<BookError>,
    /// The sizes of the calls that would change something.
    pub(crate) changes: Vec<usize>,
    pub(crate) closings: Vec<Closing>,
    pub(crate) payments: Vec<Payment>,
    pub(crate) notes: Vec<TradeNote>,
    pub(crate) aside: Vec<MoneyAside>,
    /// Orders that have ended and have a payment to be looked at.
    pub(crate) unfinished: Vec<OrderId>,
    /// Whether it can tell which orders are overdue.
    pub(crate) no_pages: bool,
}

impl FakeBook {
    pub(crate) fn with(orders: &[(&str, OrderFacts)]) -> Arc<Self> {
        let book = Self::default();
        book.state().orders = orders.iter().map(|(name, facts)| (id(name), facts.clone())).collect();
        Arc::new(book)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn status(&self, name: &str) -> OrderStatus {
        self.state().orders[&id(name)].status
    }
}

impl FakeState {
    fn reply_to<R>(&mut self, id: &OrderId) -> Option<ItemReply<R>> {
        Some(match self.replies.get_mut(id)?.pop_front()? {
            ItemReply::Done(()) => return None,
            ItemReply::Changed => ItemReply::Changed,
            ItemReply::Unknown => ItemReply::Unknown,
            ItemReply::Locked(why) => ItemReply::Locked(why),
            ItemReply::Refused(detail) => ItemReply::Refused(detail),
            ItemReply::Later(wait) => ItemReply::Later(wait),
        })
    }

    fn revision(&self, id: &OrderId) -> Revision {
        Revision(self.revisions.get(id).copied().unwrap_or(0).to_string())
    }

    fn becomes(&mut self, id: &OrderId, status: OrderStatus) {
        if let Some(facts) = self.orders.get_mut(id) {
            facts.status = status;
            *self.revisions.entry(id.clone()).or_default() += 1;
        }
    }

    fn begin_change<'a>(&mut self, ids: impl ExactSizeIterator<Item = &'a OrderId>) -> Result<(), BookError> {
        self.changes.push(ids.len());
        if let Some(error) = self.errors.pop_front() {
            return Err(error);
        }
        if self.slow_above.is_some_and(|most| ids.len() > most) {
            return Err(BookError::Slow("statement timeout".to_owned()));
        }
        for id in ids {
            if self.slow.contains(id) {
                return Err(BookError::Slow("statement timeout".to_owned()));
            }
            if self.busy.contains(id) {
                return Err(BookError::Busy("deadlock detected".to_owned()));
            }
            if self.poison.contains(id) {
                return Err(BookError::Refused("a rule is broken".to_owned()));
            }
        }
        Ok(())
    }
}

fn reply<T>(items: HashMap<OrderId, ItemReply<T>>) -> Reply<T> {
    Reply { time: ServerTime::from(now()), items }
}

#[async_trait]
impl OrderBook for FakeBook {
    async fn load(&self, ids: &[OrderId], _gateway: Option<&str>) -> BookResult<Loaded> {
        let mut state = self.state();
        let mut items = HashMap::new();
        for id in ids {
            let item = match (state.reply_to(id), state.orders.get(id)) {
                (Some(reply), _) => reply,
                (None, None) => ItemReply::Unknown,
                (None, Some(facts)) => {
                    ItemReply::Done(Loaded { facts: facts.clone(), revision: Some(state.revision(id)) })
                }
            };
            items.insert(id.clone(), item);
        }
        Ok(reply(items))
    }

    async fn settle(&self, closings: &[Closing], _: &Actor, _: Option<&TraceParent>) -> BookResult<Closed> {
        let mut state = self.state();
        state.begin_change(closings.iter().map(|closing| &closing.id))?;
        let mut items = HashMap::new();
        for closing in closings {
            let stands = state.orders.get(&closing.id).is_some_and(|facts| {
                facts.status == OrderStatus::Pending
                    && facts.deadline == closing.deadline
                    && closing.revision.as_ref() == Some(&state.revision(&closing.id))
            });
            if stands {
                state.becomes(&closing.id, OrderStatus::Closed);
                state.closings.push(closing.clone());
                items.insert(
                    closing.id.clone(),
                    ItemReply::Done(Closed { lateness: Duration::from_secs(1), without_stock: None }),
                );
            }
        }
        Ok(reply(items))
    }

    async fn pay(&self, payments: &[Payment], _: &Actor, _: Option<&TraceParent>) -> BookResult<Credited> {
        let mut state = self.state();
        state.begin_change(payments.iter().map(|payment| &payment.id))?;
        let mut items = HashMap::new();
        for payment in payments {
            let credited = match state.orders[&payment.id].status {
                OrderStatus::Pending => Credited::Paid,
                OrderStatus::Paid => Credited::Already,
                _ => Credited::Late,
            };
            if credited == Credited::Paid {
                state.becomes(&payment.id, OrderStatus::Paid);
            }
            state.payments.push(payment.clone());
            items.insert(payment.id.clone(), ItemReply::Done(credited));
        }
        Ok(reply(items))
    }

    async fn note(&self, notes: &[TradeNote]) -> Result<(), BookError> {
        self.state().notes.extend(notes.iter().cloned());
        Ok(())
    }

    async fn set_aside(&self, money: &[MoneyAside]) -> Result<(), BookError> {
        let mut state = self.state();
        state.begin_change(money.iter().filter_map(|money| money.id.as_ref()).collect::<Vec<_>>().into_iter())?;
        state.aside.extend(money.iter().cloned());
        Ok(())
    }

    async fn unfinished(&self, _: usize) -> Result<Vec<OrderId>, BookError> {
        Ok(std::mem::take(&mut self.state().unfinished))
    }

    async fn ready(&self) -> Result<ServerTime, BookError> {
        self.state().unready.clone().map_or_else(|| Ok(ServerTime::from(now())), Err)
    }

    async fn overdue(&self, page: &PageRequest) -> Result<Option<OverduePage>, BookError> {
        let state = self.state();
        if state.no_pages {
            return Ok(None);
        }
        let mut pending: Vec<(OffsetDateTime, OrderId)> = (state.orders.iter())
            .filter(|(_, facts)| facts.status == OrderStatus::Pending)
            .map(|(id, facts)| (facts.deadline.instant(), id.clone()))
            .filter(|(deadline, id)| {
                let after = page.after.as_ref().map(|after| (after.deadline.clone(), after.id.as_str()));
                let here = (Deadline::at(*deadline).to_string(), id.as_str());
                *deadline < now() - page.grace && after.is_none_or(|after| here > after)
            })
            .collect();
        pending.sort();
        pending.truncate(page.orders_max);
        let next = pending.last().filter(|_| pending.len() == page.orders_max);
        let next =
            next.map(|(deadline, id)| Bookmark { deadline: Deadline::at(*deadline).to_string(), id: id.to_string() });
        Ok(Some(OverduePage { ids: pending.into_iter().map(|(_, id)| id).collect(), next }))
    }
}

/// A gateway whose trades all stand the same.
pub(crate) struct FakeGateway {
    pub(crate) trade: Result<Trade, GatewayFault>,
    /// How many queries there were.
    pub(crate) queries: Arc<AtomicU32>,
    /// Queries wait until this is cancelled.
    pub(crate) gate: CancellationToken,
}

impl FakeGateway {
    pub(crate) fn answering(trade: Result<Trade, GatewayFault>) -> Self {
        let gate = CancellationToken::new();
        gate.cancel();
        Self { trade, queries: Arc::default(), gate }
    }

    pub(crate) fn in_state(state: TradeState) -> Self {
        Self::answering(Ok(Trade::in_state(state)))
    }

    pub(crate) fn paid() -> Self {
        let trade = Trade {
            transaction_id: Some("4200".to_owned()),
            amount: Some(cny(1999)),
            ..Trade::in_state(TradeState::Paid)
        };
        Self::answering(Ok(trade))
    }
}

#[async_trait]
impl PaymentGateway for FakeGateway {
    fn min_close_age(&self) -> Duration {
        Duration::ZERO
    }

    async fn query(&self, _: &str) -> Result<Trade, GatewayFault> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        self.gate.cancelled().await;
        self.trade.clone()
    }

    async fn close(&self, _: &str) -> Result<CloseOutcome, GatewayFault> {
        Ok(CloseOutcome::Accepted)
    }

    async fn refund(&self, _: &RefundRequest) -> Result<Refund, GatewayFault> {
        Err(GatewayFault::Transient("not in this test".to_owned()))
    }

    async fn query_refund(&self, _: &RefundRequest) -> Result<Refund, GatewayFault> {
        Err(GatewayFault::Transient("not in this test".to_owned()))
    }

    async fn parse_notification(&self, _: &HeaderMap, _: &[u8]) -> Result<Notification, GatewayFault> {
        Err(GatewayFault::Protocol("not in this test".to_owned()))
    }
}
