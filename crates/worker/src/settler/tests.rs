use std::sync::Arc;
use std::sync::atomic::Ordering;

use book::{OrderBook, TradeFinding};
use order::{Attempts, OrderStatus, RetryReason, TradeState};
use payment::GatewayFault;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fakes::{
    FakeBook, FakeGateway, context, due, gateways, id, overdue, overdue_at_gateway, payment_facts, receipt,
};
use crate::metrics::WorkerMetrics;
use crate::outcome::OutcomeKind;

fn settler(book: &Arc<FakeBook>, gateways: &Gateways, mode: Mode) -> Settler {
    Settler::new(&SharedBook::new(Arc::clone(book) as _), gateways, mode, UnknownOrders::default())
}

/// Settles these orders, each without an attempt so far.
async fn settle(book: &Arc<FakeBook>, gateways: &Gateways, mode: Mode, names: &[&str]) -> Settled {
    settler(book, gateways, mode).settle(&due(names), &context()).await.unwrap()
}

#[tokio::test]
async fn each_order_ends_by_itself() {
    let paid = order::OrderFacts { status: OrderStatus::Paid, ..overdue() };
    let book = FakeBook::with(&[("due", overdue()), ("paid", paid), ("at-gateway", overdue_at_gateway())]);
    let gateways = gateways(FakeGateway::in_state(TradeState::Closed));
    let settled = settle(&book, &gateways, Mode::Payment, &["due", "paid", "at-gateway", "nobody"]).await;
    assert_eq!(settled.outcomes[&id("due")], Outcome::Closed);
    assert_eq!(settled.outcomes[&id("paid")], Outcome::Unchanged);
    assert!(matches!(settled.outcomes[&id("at-gateway")], Outcome::HandedOver(_)));
    assert!(matches!(settled.outcomes[&id("nobody")], Outcome::LookAgain { .. }));
    assert_eq!(book.status("at-gateway"), OrderStatus::Pending);
    let metrics: WorkerMetrics = gateways.metrics();
    assert_eq!((metrics.orders(OutcomeKind::Closed), metrics.orders_seen()), (1, 4));
}

#[tokio::test]
async fn an_order_at_a_gateway_closes_when_the_gateway_says_so_and_is_paid_when_it_was() {
    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let settled = settle(&book, &gateways(FakeGateway::in_state(TradeState::Closed)), Mode::Gateway, &["1"]).await;
    assert_eq!((&settled.outcomes[&id("1")], book.status("1")), (&Outcome::Closed, OrderStatus::Closed));
    assert_eq!(book.state().closings[0].payments, [payment_facts()]);
    assert_eq!(book.state().notes[0].finding, TradeFinding::Gone);

    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let settled = settle(&book, &gateways(FakeGateway::paid()), Mode::Gateway, &["1"]).await;
    assert_eq!((&settled.outcomes[&id("1")], book.status("1")), (&Outcome::Paid, OrderStatus::Paid));
    assert_eq!(book.state().payments[0].receipt, receipt());
}

#[tokio::test]
async fn a_payment_that_came_after_the_close_is_late() {
    let closed = order::OrderFacts { status: OrderStatus::Closed, ..overdue_at_gateway() };
    let book = FakeBook::with(&[("1", closed)]);
    let settled = settle(&book, &gateways(FakeGateway::paid()), Mode::Gateway, &["1"]).await;
    assert_eq!(settled.outcomes[&id("1")], Outcome::Late);
}

#[tokio::test]
async fn a_change_between_load_and_close_is_seen_and_decided_again() {
    let book = FakeBook::with(&[("1", overdue())]);
    // The customer pays when the order has been loaded: the close finds another revision.
    let gate = CancellationToken::new();
    let racing = RacingBook { book: Arc::clone(&book), gate: gate.clone() };
    let settler =
        Settler::new(&SharedBook::new(Arc::new(racing)), &Gateways::none(), Mode::Payment, UnknownOrders::default());
    let settled = settler.settle(&due(&["1"]), &context()).await.unwrap();
    assert!(gate.is_cancelled(), "the close was tried");
    assert_eq!((&settled.outcomes[&id("1")], book.status("1")), (&Outcome::Unchanged, OrderStatus::Paid));
    assert!(book.state().closings.is_empty());
}

/// Before the first close, the customer pays.
struct RacingBook {
    book: Arc<FakeBook>,
    gate: CancellationToken,
}

#[async_trait]
impl OrderBook for RacingBook {
    async fn load(&self, ids: &[OrderId], gateway: Option<&str>) -> book::BookResult<Loaded> {
        self.book.load(ids, gateway).await
    }

    async fn settle(
        &self,
        closings: &[book::Closing],
        by: &book::Actor,
        trace: Option<&trace::TraceParent>,
    ) -> book::BookResult<Closed> {
        if !self.gate.is_cancelled() {
            self.gate.cancel();
            self.book.pay(&[payment("1")], by, trace).await?;
        }
        self.book.settle(closings, by, trace).await
    }

    async fn pay(
        &self,
        payments: &[book::Payment],
        by: &book::Actor,
        trace: Option<&trace::TraceParent>,
    ) -> book::BookResult<Credited> {
        self.book.pay(payments, by, trace).await
    }

    async fn note(&self, notes: &[TradeNote]) -> Result<(), book::BookError> {
        self.book.note(notes).await
    }

    async fn set_aside(&self, money: &[book::MoneyAside]) -> Result<(), book::BookError> {
        self.book.set_aside(money).await
    }
}

fn payment(name: &str) -> book::Payment {
    let (gateway, trade_no) = ("wechat".to_owned(), "842317".to_owned());
    book::Payment {
        id: id(name),
        gateway,
        trade_no,
        receipt: receipt(),
        refund_no: String::new(),
        further_refund_no: String::new(),
    }
}

#[tokio::test]
async fn an_order_that_no_attempt_changes_is_parked_and_holds_up_no_other() {
    let book = FakeBook::with(&[("stubborn", overdue()), ("easy", overdue())]);
    // The book says nothing about it, however often.
    let replies = vec![ItemReply::Changed; ROUNDS_MAX as usize * 2];
    book.state().replies.insert(id("stubborn"), replies.into());
    let settled = settle(&book, &Gateways::none(), Mode::Payment, &["stubborn", "easy"]).await;
    assert_eq!(settled.outcomes[&id("easy")], Outcome::Closed);
    let Outcome::Parked { reason, .. } = &settled.outcomes[&id("stubborn")] else { panic!("{settled:?}") };
    assert_eq!(*reason, ParkReason::NotClosed);
    assert_eq!(book.status("stubborn"), OrderStatus::Pending);
}

#[tokio::test]
async fn what_was_kept_from_closing_until_the_last_round_has_one_round_more() {
    let book = FakeBook::with(&[("first", overdue()), ("late", overdue())]);
    let rounds = ROUNDS_MAX as usize;
    book.state().replies.insert(id("first"), vec![ItemReply::Changed; rounds - 1].into());
    book.state().replies.insert(id("late"), vec![ItemReply::Changed; rounds].into());
    let settled = settle(&book, &Gateways::none(), Mode::Payment, &["first", "late"]).await;
    assert_eq!([&settled.outcomes[&id("first")], &settled.outcomes[&id("late")]], [&Outcome::Closed; 2]);
}

#[tokio::test]
async fn orders_that_wait_for_a_gateway_hold_up_no_other() {
    let gateway = FakeGateway::in_state(TradeState::Closed);
    let gate = CancellationToken::new();
    let gateway = FakeGateway { gate: gate.clone(), ..gateway };
    let book = FakeBook::with(&[("1", overdue()), ("2", overdue_at_gateway())]);
    let (gateways, all, context) = (gateways(gateway), due(&["1", "2"]), context());
    let settler = settler(&book, &gateways, Mode::Gateway);
    let watching = async {
        while book.status("1") != OrderStatus::Closed {
            tokio::task::yield_now().await;
        }
        assert_eq!(book.status("2"), OrderStatus::Pending, "its gateway has not answered");
        gate.cancel();
    };
    let (settled, ()) = tokio::join!(settler.settle(&all, &context), watching);
    assert_eq!(settled.unwrap().outcomes[&id("2")], Outcome::Closed);
}

#[tokio::test]
async fn a_gateway_that_does_not_know_us_holds_orders_without_an_attempt() {
    let gateway = FakeGateway::answering(Err(GatewayFault::Unauthenticated("SIGN_ERROR".to_owned())));
    let queries = Arc::clone(&gateway.queries);
    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let gateways = gateways(gateway);
    let settled = settle(&book, &gateways, Mode::Gateway, &["1"]).await;
    assert!(matches!(&settled.outcomes[&id("1")], Outcome::Held(why) if why.contains("SIGN_ERROR")));
    assert_eq!(settled.rechecks[0].attempts, Attempts::default());
    let settled = settle(&book, &gateways, Mode::Gateway, &["1"]).await;
    assert!(matches!(&settled.outcomes[&id("1")], Outcome::Held(_)));
    assert_eq!(queries.load(Ordering::Relaxed), 1, "it is not asked any more");
}

#[tokio::test]
async fn an_order_at_a_gateway_without_settings_is_held() {
    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let settled = settle(&book, &Gateways::none(), Mode::Gateway, &["1"]).await;
    assert!(matches!(&settled.outcomes[&id("1")], Outcome::Held(why) if why.contains("wechat")), "{settled:?}");
    assert_eq!(book.status("1"), OrderStatus::Pending);
}

#[tokio::test]
async fn an_unclear_answer_is_an_attempt() {
    let gateway = FakeGateway::answering(Err(GatewayFault::Protocol("not signed".to_owned())));
    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let settled = settle(&book, &gateways(gateway), Mode::Gateway, &["1"]).await;
    assert!(matches!(&settled.outcomes[&id("1")], Outcome::Retried(RetryReason::Unclear(_))), "{settled:?}");
    assert_eq!(settled.rechecks[0].attempts.made, 1);
}

#[tokio::test]
async fn locked_orders_and_refused_orders_are_told_apart() {
    let book = FakeBook::with(&[("locked", overdue()), ("bad", overdue()), ("good", overdue())]);
    book.state().poison = vec![id("bad")];
    book.state().replies.insert(id("locked"), vec![ItemReply::Locked("in use".to_owned())].into());
    let settled = settle(&book, &Gateways::none(), Mode::Payment, &["locked", "bad", "good"]).await;
    let Outcome::LookAgain { attempts, .. } = &settled.outcomes[&id("locked")] else { panic!("{settled:?}") };
    assert_eq!(attempts.made, 1);
    let Outcome::Parked { reason, .. } = &settled.outcomes[&id("bad")] else { panic!("{settled:?}") };
    assert_eq!(*reason, ParkReason::RefusedByDatabase);
    assert_eq!(settled.outcomes[&id("good")], Outcome::Closed);
}

#[tokio::test]
async fn a_program_that_stops_gives_a_batch_back_that_waits_for_a_gateway() {
    let gateway = FakeGateway { gate: CancellationToken::new(), ..FakeGateway::in_state(TradeState::Closed) };
    let queries = Arc::clone(&gateway.queries);
    let book = FakeBook::with(&[("1", overdue_at_gateway())]);
    let (gateways, all, context) = (gateways(gateway), due(&["1"]), context());
    let settler = settler(&book, &gateways, Mode::Gateway);
    let stopping = async {
        while queries.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        context.patience.shutdown().cancel();
    };
    let (handled, ()) = tokio::join!(settler.settle(&all, &context), stopping);
    assert!(handled.is_err());
    assert_eq!(book.status("1"), OrderStatus::Pending);
}
