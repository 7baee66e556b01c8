use std::sync::Arc;
use std::time::Duration;

use book::{Actor, BookResult, Closed, OrderBook, Revision};
use order::OrderStatus;

use super::*;
use crate::fakes::{FakeBook, context, deadline, id, overdue, receipt};
use crate::shared_book::SharedBook;

fn book(orders: usize) -> (Arc<FakeBook>, SharedBook, Vec<Closing>) {
    let names: Vec<String> = (0..orders).map(|number| format!("o-{number}")).collect();
    let facts: Vec<_> = names.iter().map(|name| (name.as_str(), overdue())).collect();
    let book = FakeBook::with(&facts);
    let shared = SharedBook::new(Arc::clone(&book) as Arc<dyn OrderBook>);
    (book, shared, names.iter().map(|name| closing(name)).collect())
}

fn closing(name: &str) -> Closing {
    let revision = Some(Revision("0".to_owned()));
    Closing { id: id(name), deadline: deadline(), revision, payments: Vec::new(), recheck: None }
}

/// A time that no book of these tests tells.
fn known() -> ServerTime {
    ServerTime::from(deadline().instant() + Duration::from_hours(100_000))
}

async fn try_to_close(
    shared: &SharedBook,
    closings: &[Closing],
    patience: &Patience,
) -> Result<Reply<Closed>, Interrupted> {
    let by = Actor::on_timeout("worker");
    let calls =
        Calls { to: shared, warnings: &shared.warnings, evidence: &shared.writes, patience, trouble: "trouble" };
    calls.in_parts(closings, known(), |part| shared.book.settle(part, &by, None)).await
}

async fn close(shared: &SharedBook, closings: &[Closing]) -> HashMap<OrderId, ItemReply<Closed>> {
    try_to_close(shared, closings, &context().patience).await.unwrap().items
}

#[tokio::test]
async fn an_order_that_breaks_a_rule_stands_alone_in_the_end_and_the_others_close() {
    let (book, shared, closings) = book(64);
    book.state().poison = vec![id("o-17"), id("o-40")];
    let items = close(&shared, &closings).await;
    assert_eq!(items.len(), 64);
    for (id, item) in &items {
        let refused = matches!(item, ItemReply::Refused(_));
        assert_eq!(refused, ["o-17", "o-40"].contains(&id.as_str()), "{id}");
        assert_eq!(book.status(id.as_str()) == OrderStatus::Closed, !refused, "{id}");
    }
    assert!(book.state().changes.len() <= 26, "splitting takes few calls: {:?}", book.state().changes);
    assert!(shared.trouble().is_none());
}

#[tokio::test]
async fn many_bad_orders_are_refused_where_good_ones_close_beside_them() {
    let (book, shared, closings) = book(64);
    book.state().poison = (0..60).map(|number| id(&format!("o-{number}"))).collect();
    let items = close(&shared, &closings).await;
    assert_eq!(items.values().filter(|item| matches!(item, ItemReply::Refused(_))).count(), 60);
    assert_eq!(items.values().filter(|item| matches!(item, ItemReply::Done(_))).count(), 4);
}

#[tokio::test]
async fn where_every_order_fails_alike_none_is_refused_and_few_calls_are_made() {
    let (book, shared, closings) = book(1000);
    book.state().poison = closings.iter().map(|closing| closing.id.clone()).collect();
    let items = close(&shared, &closings).await;
    assert_eq!(items.len(), 1000);
    assert!(items.values().all(|item| matches!(item, ItemReply::Later(_))));
    let calls = book.state().changes.len();
    assert!(calls <= SAMPLE_AFTER_FAILURES + ALIKE, "{calls} calls");
    let (trouble, _) = shared.trouble().expect("it is known");
    assert!(trouble.contains("a rule is broken"), "{trouble}");
    assert!(shared.writes.closed_for().is_some());

    // The rule is gone. What was held back closes, and the trouble is over.
    book.state().poison.clear();
    let items = close(&shared, &closings).await;
    assert!(items.values().all(|item| matches!(item, ItemReply::Done(_))));
    assert!(shared.trouble().is_none() && shared.writes.closed_for().is_none());
}

#[tokio::test]
async fn orders_that_were_held_back_are_refused_once_others_have_gone_through() {
    let (book, shared, closings) = book(20);
    let (bad, good) = closings.split_at(10);
    book.state().poison = bad.iter().map(|closing| closing.id.clone()).collect();
    assert!(close(&shared, bad).await.values().all(|item| matches!(item, ItemReply::Later(_))));
    assert!(close(&shared, good).await.values().all(|item| matches!(item, ItemReply::Done(_))));
    assert!(close(&shared, bad).await.values().all(|item| matches!(item, ItemReply::Refused(_))));
}

#[tokio::test]
async fn a_bad_order_that_comes_alone_is_refused() {
    let (book, shared, closings) = book(1);
    book.state().poison = vec![id("o-0")];
    for _ in 0..2 {
        assert_eq!(close(&shared, &closings).await[&id("o-0")], ItemReply::Later(UNCLEAR_HOLD), "others may fail, too");
    }
    assert!(matches!(close(&shared, &closings).await[&id("o-0")], ItemReply::Refused(_)));
    assert!(shared.trouble().is_none(), "it is the order's own");
}

#[tokio::test]
async fn a_call_that_is_too_slow_is_split_and_an_order_that_is_too_slow_alone_is_looked_at_again() {
    let (book, shared, closings) = self::book(10);
    book.state().slow_above = Some(3);
    let items = close(&shared, &closings).await;
    assert!(items.values().all(|item| matches!(item, ItemReply::Done(_))));
    assert!(book.state().changes.iter().filter(|size| **size <= 3).count() >= 4);

    let (book, shared, closings) = self::book(2);
    book.state().slow = vec![id("o-0")];
    let items = close(&shared, &closings).await;
    assert!(matches!(items[&id("o-0")], ItemReply::Locked(_)), "another went through beside it");
    assert!(matches!(items[&id("o-1")], ItemReply::Done(_)));

    let (book, shared, closings) = self::book(2);
    book.state().slow_above = Some(0);
    let items = close(&shared, &closings).await;
    assert!(items.values().all(|item| matches!(item, ItemReply::Later(_))), "it may be the book: no attempt counts");
}

#[tokio::test]
async fn a_busy_book_is_tried_again_and_then_it_may_be_one_of_the_orders() {
    let (book, shared, closings) = self::book(16);
    book.state().errors.push_back(BookError::Busy("a deadlock".to_owned()));
    assert!(close(&shared, &closings).await.values().all(|item| matches!(item, ItemReply::Done(_))));
    assert_eq!(book.state().changes, [16, 16]);

    let (book, shared, closings) = self::book(16);
    book.state().busy = vec![id("o-3")];
    let items = close(&shared, &closings).await;
    assert!(matches!(items[&id("o-3")], ItemReply::Locked(_)));
    assert_eq!(items.values().filter(|item| matches!(item, ItemReply::Done(_))).count(), 15);
}

#[tokio::test]
async fn a_book_that_is_busy_for_every_order_is_waited_for() {
    let (book, shared, closings) = self::book(16);
    book.state().busy = closings.iter().map(|closing| closing.id.clone()).collect();
    let short = context().patience.lasting(Duration::from_secs(1));
    assert!(try_to_close(&shared, &closings, &short).await.is_err(), "nothing is parked for a full disk");
    assert!(shared.trouble().is_some());
}

#[tokio::test]
async fn whenever_it_is_mended_nobody_is_refused_for_what_failed_before() {
    for good_after in 1..60 {
        let (book, shared, closings) = self::book(40);
        let calls_made = std::sync::atomic::AtomicUsize::new(0);
        let by = Actor::on_timeout("worker");
        let call = |part| -> BoxFuture<'_, BookResult<Closed>> {
            if calls_made.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < good_after {
                return Box::pin(async { Err(BookError::Refused("not today".to_owned())) });
            }
            shared.book.settle(part, &by, None)
        };
        let patience = context().patience;
        let calls = Calls {
            to: &shared,
            warnings: &shared.warnings,
            evidence: &shared.writes,
            patience: &patience,
            trouble: "trouble",
        };
        let reply = calls.in_parts(&closings, known(), call).await.unwrap();
        assert_eq!(reply.items.len(), 40);
        for (id, item) in &reply.items {
            assert!(
                matches!(item, ItemReply::Done(_) | ItemReply::Later(_)),
                "{id} after {good_after} calls: {item:?}"
            );
        }
        drop(book);
    }
}

#[tokio::test]
async fn an_order_about_which_the_book_says_nothing_has_changed() {
    let (_, shared, mut closings) = book(2);
    closings[1].revision = Some(Revision("another".to_owned()));
    let items = close(&shared, &closings).await;
    assert!(matches!(items[&id("o-0")], ItemReply::Done(_)));
    assert_eq!(items[&id("o-1")], ItemReply::Changed);
}

#[tokio::test]
async fn what_the_book_was_not_asked_about_is_left_out() {
    let (_, shared, closings) = book(2);
    let call = |_| -> BoxFuture<'_, BookResult<()>> {
        let items = HashMap::from(["o-0", "o-7"].map(|name| (id(name), ItemReply::Done(()))));
        Box::pin(async { Ok(Reply { time: known(), items }) })
    };
    let patience = context().patience;
    let calls = Calls {
        to: &shared,
        warnings: &shared.warnings,
        evidence: &shared.loads,
        patience: &patience,
        trouble: "trouble",
    };
    let reply = calls.in_parts(&closings, known(), call).await.unwrap();
    assert_eq!(reply.items, HashMap::from([(id("o-0"), ItemReply::Done(())), (id("o-1"), ItemReply::Changed)]));
}

#[tokio::test]
async fn a_book_that_is_away_is_waited_for_and_the_whole_is_sent_again() {
    let (book, shared, closings) = book(8);
    book.state().errors.push_back(BookError::Away("it restarts".to_owned()));
    assert_eq!(close(&shared, &closings).await.len(), 8);
    assert_eq!(book.state().changes, [8, 8], "nothing is split because a server is away");
}

#[tokio::test]
async fn no_order_is_parked_for_what_is_wrong_without_any_order_too() {
    let (book, shared, closings) = book(1);
    book.state().poison = vec![id("o-0")];
    book.state().unready = Some(BookError::Misconfigured("permission denied for table orders".to_owned()));
    let short = context().patience.lasting(Duration::ZERO);
    assert!(try_to_close(&shared, &closings, &short).await.is_err());
    assert!(shared.trouble().unwrap().0.contains("permission denied"));
}

#[tokio::test]
async fn a_book_that_refuses_everything_leaves_the_time_as_it_was_known() {
    let (book, shared, closings) = book(1);
    book.state().poison = vec![id("o-0")];
    let closed = try_to_close(&shared, &closings, &context().patience).await;
    assert!(closed.unwrap().time.now() >= known().now() - Duration::from_mins(1));
}

#[tokio::test]
async fn splitting_ends_with_patience() {
    let (book, shared, closings) = book(64);
    book.state().slow_above = Some(0);
    let short = context().patience.lasting(Duration::ZERO);
    assert!(try_to_close(&shared, &closings, &short).await.is_err());
    assert_eq!(book.state().changes.len(), 1);
}

#[test]
fn a_refused_payment_mentions_the_money() {
    let (gateway, trade_no) = ("wechat".to_owned(), "842317".to_owned());
    let payment = Payment {
        id: id("1"),
        gateway,
        trade_no,
        receipt: receipt(),
        refund_no: String::new(),
        further_refund_no: String::new(),
    };
    assert_eq!(payment.refusal("no"), "paid at the gateway as 4200, but: no");
}
