//! Calls to the order book about many orders: the good go through, and the bad are left alone.

use std::collections::{HashMap, HashSet};

use book::{BookError, BookResult, Closing, ItemReply, Payment, Reply, ServerTime};
use futures_util::future::BoxFuture;
use order::OrderId;

use crate::patience::{Interrupted, Patience};

/// What a call to the book is about: one order each.
pub(crate) trait AboutOrder {
    fn order(&self) -> &OrderId;

    /// The book's refusal, in words for a person.
    fn refusal(&self, detail: &str) -> String {
        detail.to_owned()
    }
}

impl AboutOrder for OrderId {
    fn order(&self) -> &OrderId {
        self
    }
}

impl AboutOrder for Closing {
    fn order(&self) -> &OrderId {
        &self.id
    }
}

impl AboutOrder for Payment {
    fn order(&self) -> &OrderId {
        &self.id
    }

    /// Money must be mentioned.
    fn refusal(&self, detail: &str) -> String {
        format!("paid at the gateway as {}, but: {detail}", self.receipt.transaction_id)
    }
}

/// Calls the book about all of these, and waits out a book that is away. Where the book refuses the whole, or is too slow
/// with it, the whole is halved, and halved again: until the order that breaks a rule stands alone, and the rest is quick
/// enough. An order that is too slow alone counts as locked. The reply has an item for each,
/// and the book's time, or the one that was `known` before.
pub(crate) async fn call_in_parts<'a, T: AboutOrder, R>(
    whole: &'a [T],
    patience: &Patience,
    known: ServerTime,
    trouble: &str,
    call: impl Fn(&'a [T]) -> BoxFuture<'a, BookResult<R>>,
) -> Result<Reply<R>, Interrupted> {
    let mut replies = Reply { time: known, items: HashMap::new() };
    let mut parts = if whole.is_empty() { Vec::new() } else { vec![whole] };
    while let Some(part) = parts.pop() {
        let reply = match patience.until(trouble, is_about_orders, || call(part)).await? {
            Ok(reply) => reply,
            Err(_) if part.len() > 1 && patience.is_over() => return Err(Interrupted),
            Err(_) if part.len() > 1 => {
                let (first_half, second_half) = part.split_at(part.len() / 2);
                parts.extend([second_half, first_half]);
                continue;
            }
            Err(BookError::Refused(detail)) => alone(part, ItemReply::Refused(detail), replies.time),
            Err(_) => alone(part, ItemReply::Locked, replies.time),
        };
        take(reply, part, &mut replies);
    }
    let mut locked = replies.items.iter().filter(|(_, item)| matches!(item, ItemReply::Locked)).map(|(id, _)| id);
    if let Some(example) = locked.next() {
        let orders = locked.count() + 1;
        tracing::warn!(orders, %example, "orders are locked by another transaction; they are looked at again later");
    }
    Ok(replies)
}

/// Whether an error may be due to some of the orders, or to their number.
pub(crate) fn is_about_orders(error: &BookError) -> bool {
    matches!(error, BookError::Slow(_) | BookError::Refused(_))
}

/// A reply about the order that stands alone.
fn alone<T: AboutOrder, R>(part: &[T], item: ItemReply<R>, time: ServerTime) -> Reply<R> {
    let items = part.first().map(|single| (single.order().clone(), item));
    Reply { time, items: items.into_iter().collect() }
}

/// Adds a reply about a part to what is known: an item for each order of it, and for no other.
fn take<T: AboutOrder, R>(mut reply: Reply<R>, part: &[T], replies: &mut Reply<R>) {
    replies.time = reply.time;
    for about in part {
        match reply.items.get_mut(about.order()) {
            Some(ItemReply::Refused(detail)) => *detail = about.refusal(detail),
            Some(_) => {}
            // Its outcome is not known.
            None => drop(reply.items.insert(about.order().clone(), ItemReply::Changed)),
        }
    }
    if reply.items.len() > part.len() {
        let asked: HashSet<&OrderId> = part.iter().map(AboutOrder::order).collect();
        reply.items.retain(|id, _| asked.contains(id));
    }
    if replies.items.is_empty() {
        replies.items = reply.items;
    } else {
        replies.items.extend(reply.items);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use book::{Actor, OrderBook, Revision};
    use order::OrderStatus;

    use super::*;
    use crate::fakes::{FakeBook, context, deadline, id, overdue, receipt};

    fn book(orders: usize) -> (Arc<FakeBook>, Vec<Closing>) {
        let names: Vec<String> = (0..orders).map(|number| format!("o-{number}")).collect();
        let facts: Vec<_> = names.iter().map(|name| (name.as_str(), overdue())).collect();
        (FakeBook::with(&facts), names.iter().map(|name| closing(name)).collect())
    }

    fn closing(name: &str) -> Closing {
        let revision = Some(Revision("0".to_owned()));
        Closing { id: id(name), deadline: deadline(), revision, payment: None, recheck: None }
    }

    /// A time that no book of these tests tells.
    fn known() -> ServerTime {
        ServerTime::from(deadline().instant() + Duration::from_hours(100_000))
    }

    async fn close(book: &FakeBook, closings: &[Closing]) -> HashMap<OrderId, ItemReply<book::Closed>> {
        let by = Actor::on_timeout("worker");
        let patience = context().patience;
        let closed = call_in_parts(closings, &patience, known(), "trouble", |part| book.settle(part, &by, None)).await;
        closed.unwrap().items
    }

    #[tokio::test]
    async fn an_order_that_breaks_a_rule_stands_alone_in_the_end_and_the_others_close() {
        let (book, closings) = book(64);
        book.state().poison = vec![id("o-17"), id("o-40")];
        let items = close(&book, &closings).await;
        assert_eq!(items.len(), 64);
        for (id, item) in &items {
            let refused = matches!(item, ItemReply::Refused(_));
            assert_eq!(refused, ["o-17", "o-40"].contains(&id.as_str()), "{id}");
            assert_eq!(book.status(id.as_str()) == OrderStatus::Closed, !refused, "{id}");
        }
        assert!(book.state().changes.len() <= 26, "halving takes few calls: {:?}", book.state().changes);
    }

    #[tokio::test]
    async fn a_call_that_is_too_slow_is_halved_and_an_order_that_is_too_slow_alone_counts_as_locked() {
        let (book, closings) = book(10);
        book.state().slow_above = Some(3);
        let items = close(&book, &closings).await;
        assert!(items.values().all(|item| matches!(item, ItemReply::Done(_))));
        assert!(book.state().changes.iter().filter(|size| **size <= 3).count() >= 4);

        let (book, closings) = self::book(2);
        book.state().slow_above = Some(0);
        let items = close(&book, &closings).await;
        assert!(items.values().all(|item| *item == ItemReply::Locked));
    }

    #[tokio::test]
    async fn an_order_about_which_the_book_says_nothing_has_changed() {
        let (book, mut closings) = book(2);
        closings[1].revision = Some(Revision("another".to_owned()));
        let items = close(&book, &closings).await;
        assert!(matches!(items[&id("o-0")], ItemReply::Done(_)));
        assert_eq!(items[&id("o-1")], ItemReply::Changed);
    }

    #[tokio::test]
    async fn what_the_book_was_not_asked_about_is_left_out() {
        let (_, closings) = book(2);
        let call = |_| -> BoxFuture<'_, BookResult<()>> {
            let items = HashMap::from(["o-0", "o-7"].map(|name| (id(name), ItemReply::Done(()))));
            Box::pin(async { Ok(Reply { time: known(), items }) })
        };
        let reply = call_in_parts(&closings, &context().patience, known(), "trouble", call).await.unwrap();
        assert_eq!(reply.items, HashMap::from([(id("o-0"), ItemReply::Done(())), (id("o-1"), ItemReply::Changed)]));
    }

    #[tokio::test]
    async fn a_book_that_is_away_is_waited_for_and_the_whole_is_sent_again() {
        let (book, closings) = book(8);
        book.state().errors.push_back(BookError::Away("it restarts".to_owned()));
        let patience = context().patience;
        let by = Actor::on_timeout("worker");
        let closed = call_in_parts(&closings, &patience, known(), "trouble", |part| book.settle(part, &by, None)).await;
        assert_eq!(closed.unwrap().items.len(), 8);
        assert_eq!(book.state().changes, [8, 8], "nothing is halved because a server is away");
        book.state().errors.push_back(BookError::Misconfigured("no right".to_owned()));
        let short = patience.lasting(Duration::ZERO);
        let held = call_in_parts(&closings, &short, known(), "trouble", |part| book.settle(part, &by, None)).await;
        assert!(held.is_err(), "no order is parked for a right that is missing");
    }

    #[tokio::test]
    async fn a_book_that_refuses_everything_leaves_the_time_as_it_was_known() {
        let (book, closings) = book(1);
        book.state().poison = vec![id("o-0")];
        let by = Actor::on_timeout("worker");
        let patience = context().patience;
        let closed = call_in_parts(&closings, &patience, known(), "trouble", |part| book.settle(part, &by, None)).await;
        assert!(closed.unwrap().time.now() >= known().now() - Duration::from_mins(1));
    }

    #[tokio::test]
    async fn halving_ends_with_patience() {
        let (book, closings) = book(64);
        book.state().slow_above = Some(0);
        let by = Actor::on_timeout("worker");
        let short = context().patience.lasting(Duration::ZERO);
        let held = call_in_parts(&closings, &short, known(), "trouble", |part| book.settle(part, &by, None)).await;
        assert!(held.is_err());
        assert_eq!(book.state().changes.len(), 1);
    }

    #[test]
    fn a_refused_payment_mentions_the_money() {
        let (gateway, trade_no) = ("wechat".to_owned(), "842317".to_owned());
        let payment = Payment { id: id("1"), gateway, trade_no, receipt: receipt(), refund_no: String::new() };
        assert_eq!(payment.refusal("no"), "paid at the gateway as 4200, but: no");
    }
}
