//! Money for an order that is closed already goes back once: whatever is sent twice, in any order, or not at all, and
//! whoever dies in between.

use std::time::Duration;

use book::{Actor, BookError, Closing, Credited};
use futures_util::future::join_all;
use gateway_sim::Call::{Query, Refund};
use gateway_sim::{Mishap, Simulator, State};
use http::HeaderMap;
use order::{Money, OrderId, PaymentFacts, PaymentState, Prepay};
use shop::Order;
use sqlx::Connection;
use tests::{World, eventually, gateways, impatient, simulator};
use worker::{GatewaySettings, Gateways, NotificationError, NotificationOutcome, Notifications, PipelineSettings};

/// An order that the shop closed although its trade was open, and whose customer has paid since.
async fn late_payment(world: &World, simulator: &Simulator, plan: &[(gateway_sim::Call, Mishap)]) -> Order {
    let order = world.order_at_gateway(simulator, plan).await;
    let (book, closing, by) = (world.book(), [closing(&order)], Actor::on_timeout("test"));
    loop {
        match book.settle(&closing, &by, None).await {
            Err(error) if is_passing(&error) => {}
            settled => break drop(settled.unwrap()),
        }
    }
    assert!(simulator.ledger().pay(order.id.as_str()));
    order
}

/// No fault of the orders: on a busy machine a statement may take too long. The same call again will do.
fn is_passing(error: &BookError) -> bool {
    matches!(error, BookError::Away(_) | BookError::Busy(_) | BookError::Slow(_))
}

/// The payment as the gateway was asked for it.
fn asked(order: &Order) -> PaymentFacts {
    PaymentFacts {
        gateway: "wechat".to_owned(),
        trade_no: order.id.to_string(),
        amount: Money { minor: 1999, currency: "CNY".to_owned() },
        prepay: Prepay::Created,
        created_at: order.deadline.instant(),
        not_found_at: None,
        payable_until: None,
        state: PaymentState::Open,
    }
}

fn closing(order: &Order) -> Closing {
    let (id, deadline) = (order.id.clone(), order.deadline);
    Closing { id, deadline, revision: None, payments: vec![asked(order)], recheck: None }
}

async fn scene() -> (World, Simulator, Gateways) {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 1_000).await;
    let gateways = gateways(&simulator, impatient());
    (world, simulator, gateways)
}

/// Sends a notification, and again while the database cannot be used, as a gateway does.
async fn notify(world: &World, gateways: &Gateways, sent: (HeaderMap, Vec<u8>)) -> NotificationOutcome {
    deliver(&world.notifications(gateways), sent).await
}

async fn deliver(notifications: &Notifications, (headers, body): (HeaderMap, Vec<u8>)) -> NotificationOutcome {
    loop {
        match notifications.take("wechat", &headers, &body).await {
            Err(NotificationError::Book(error)) if is_passing(&error) => {}
            taken => return taken.unwrap(),
        }
    }
}

async fn refund_state(world: &World, id: &OrderId) -> String {
    let state = sqlx::query_scalar("select state from refunds where order_id = $1").bind(id.as_str());
    state.fetch_optional(&world.pool).await.unwrap().unwrap_or_default()
}

async fn refund_becomes(world: &World, id: &OrderId, state: &str) {
    eventually(&format!("the refund of {id} is {state}"), async || refund_state(world, id).await == state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notified_payment_makes_a_pending_order_paid_and_a_closed_one_refunded() {
    let (world, simulator, gateways) = scene().await;
    let pending = world.order_at_gateway(&simulator, &[(Query(1), Mishap::PayBefore)]).await;
    assert!(simulator.ledger().pay(pending.id.as_str()));
    let late = late_payment(&world, &simulator, &[]).await;
    for (order, credited) in [(&pending, Credited::Paid), (&late, Credited::Late)] {
        let first = notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
        assert_eq!(first, NotificationOutcome::Credited(order.id.clone(), credited));
        // Sent again, as it was and signed anew.
        for _ in 0..3 {
            let again = notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
            assert_eq!(again, NotificationOutcome::Credited(order.id.clone(), Credited::Already));
        }
    }
    assert_eq!(world.status(&pending.id).await, "paid");
    let logged = "select count(*) from order_log where to_status = 'paid' and actor = 'notification'";
    assert_eq!(world.number(logged).await, 1);
    let worker = world.worker_asking(gateways, PipelineSettings::default());
    refund_becomes(&world, &late.id, "succeeded").await;
    assert_eq!(world.status(&late.id).await, "closed", "it stays closed");
    let refunds = simulator.ledger().refunds();
    assert_eq!(refunds.len(), 1);
    assert_eq!(refunds[&format!("overdue-{}", late.id)].amount_minor, 1999);
    assert_eq!(world.shelf("tea").await, (999, 0), "one sold, one back");
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_in_any_order_and_number_refund_once() {
    let (world, simulator, gateways) = scene().await;
    let worker = world.worker_asking(gateways.clone(), PipelineSettings::default());
    let orders = join_all((0..10).map(|_| late_payment(&world, &simulator, &[]))).await;
    // All at once, five times over, backwards every other time.
    let copies: Vec<_> = (0..5)
        .flat_map(|copy| {
            let mut ids: Vec<_> = orders.iter().map(|order| order.id.clone()).collect();
            if copy % 2 == 1 {
                ids.reverse();
            }
            ids
        })
        .collect();
    let notifications = world.notifications(&gateways);
    join_all(copies.iter().map(|id| deliver(&notifications, simulator.notification(id.as_str())))).await;
    for order in &orders {
        refund_becomes(&world, &order.id, "succeeded").await;
        // And once more after the end.
        let id = order.id.as_str();
        notify(&world, &gateways, simulator.notification(id)).await;
        notify(&world, &gateways, simulator.refund_notification(&format!("overdue-{id}"))).await;
    }
    assert_eq!(simulator.ledger().refunds().len(), 10);
    assert_eq!(world.number("select count(*) from refunds").await, 10);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// The worker waits for the order's lock to close it; behind it, or before it, waits the notification.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_first_between_close_and_notification_decides() {
    for notification_first in [true, false] {
        let (world, simulator, gateways) = scene().await;
        let order = world.order_at_gateway(&simulator, &[]).await;
        let mut holder = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
        let mut lock = holder.begin().await.unwrap();
        let take = "select 1 from orders where id = $1 for update";
        sqlx::query(take).bind(order.id.as_str()).execute(&mut *lock).await.unwrap();
        let book = world.book();
        let notifying = || {
            let (headers, body) = simulator.notification(order.id.as_str());
            let notifications = world.notifications(&gateways);
            tokio::spawn(async move { notifications.take("wechat", &headers, &body).await.unwrap() })
        };
        let closing_of = closing(&order);
        let close = || {
            let (book, closing) = (book.clone(), closing_of.clone());
            let by = Actor::on_timeout("test");
            tokio::spawn(async move { book.settle(&[closing], &by, None).await.unwrap().items.len() })
        };
        let waiting = async |count| {
            eventually("the lock is waited for", async || world.waiting_for_locks().await == count).await;
        };
        // No gateway should take money for a closed trade. This one does.
        simulator.ledger().pay_closed(order.id.as_str());
        let (notifying, closing) = if notification_first {
            let notifying = notifying();
            waiting(1).await;
            let closing = close();
            waiting(2).await;
            (notifying, closing)
        } else {
            let closing = close();
            waiting(1).await;
            let notifying = notifying();
            waiting(2).await;
            (notifying, closing)
        };
        lock.commit().await.unwrap();
        let (credited, closed) = if notification_first { (Credited::Paid, 0) } else { (Credited::Late, 1) };
        assert_eq!(notifying.await.unwrap(), NotificationOutcome::Credited(order.id.clone(), credited));
        assert_eq!(closing.await.unwrap(), closed);
        let shelf = if notification_first { (999, 0) } else { (1_000, 0) };
        assert_eq!(world.shelf("tea").await, shelf);
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_stale_and_foreign_notifications_change_nothing() {
    let (world, simulator, gateways) = scene().await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    assert!(simulator.ledger().pay(order.id.as_str()));
    let (headers, body) = simulator.notification(order.id.as_str());
    let with = |name: &'static str, value: &str| {
        let mut headers = headers.clone();
        headers.insert(name, value.parse().unwrap());
        headers
    };
    let mut tampered = body.clone();
    let place = tampered.len() - 3;
    tampered[place] ^= 1;
    let signature = headers["wechatpay-signature"].to_str().unwrap();
    let stale = (time::OffsetDateTime::now_utc().unix_timestamp() - 301).to_string();
    for (what, headers, body) in [
        ("unsigned", HeaderMap::new(), body.clone()),
        ("a probe", with("wechatpay-signature", &format!("WECHATPAY/SIGNTEST/{signature}")), body.clone()),
        ("another nonce", with("wechatpay-nonce", "0"), body.clone()),
        ("stale", with("wechatpay-timestamp", &stale), body.clone()),
        ("an unknown key", with("wechatpay-serial", "FFFF"), body.clone()),
        ("tampered with", headers.clone(), tampered),
    ] {
        let refused = world.notifications(&gateways).take("wechat", &headers, &body).await;
        assert!(matches!(refused, Err(NotificationError::Refused(_))), "{what}: {refused:?}");
        assert_eq!(world.status(&order.id).await, "pending", "{what}");
    }
    assert!(world.notifications(&gateways).take("alipay", &headers, &body).await.is_err());
    // The genuine one, and one about an order that nobody has.
    assert_eq!(
        world.notifications(&gateways).take("wechat", &headers, &body).await.unwrap(),
        NotificationOutcome::Credited(order.id.clone(), Credited::Paid)
    );
    simulator.ledger().open("of-another-shop", 5, "CNY");
    simulator.ledger().pay("of-another-shop");
    assert_eq!(
        notify(&world, &gateways, simulator.notification("of-another-shop")).await,
        NotificationOutcome::UnknownOrder
    );
    // A wrong amount is a matter for a person, and marks nothing as paid.
    let order = world.order_without_trade("wechat").await;
    simulator.ledger().open(order.id.as_str(), 1, "CNY");
    simulator.ledger().pay(order.id.as_str());
    let wrong = notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
    assert!(matches!(wrong, NotificationOutcome::Mismatch(..)), "{wrong:?}");
    notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
    let unplaced = "select count(*) from refunds where state = 'needs_person' and amount_minor in (1, 5)";
    assert_eq!(world.number(unplaced).await, 2, "a person finds both, once");
    assert_eq!(world.status(&order.id).await, "pending");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_speaks_the_signed_contract_notifies_too() {
    let (world, simulator, gateways) = scene().await;
    let order = world.order_at("http", &simulator, &[]).await;
    simulator.ledger().pay(order.id.as_str());
    let (headers, body) = simulator.service_notification(order.id.as_str());
    let forged = String::from_utf8(body.clone()).unwrap().replace("1999", "1998").into_bytes();
    assert!(world.notifications(&gateways).take("http", &headers, &forged).await.is_err());
    let told = world.notifications(&gateways).take("http", &headers, &body).await.unwrap();
    assert_eq!(told, NotificationOutcome::Credited(order.id, Credited::Paid));
    world.close().await;
}

/// Whoever dies: the refund was recorded and not requested; requested and the answer lost; answered and not
/// written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_refunds_once() {
    let (world, simulator, gateways) = scene().await;
    let order = late_payment(&world, &simulator, &[(Refund(1), Mishap::LoseAnswer)]).await;
    notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
    assert_eq!(refund_state(&world, &order.id).await, "requested", "on record before anybody is asked");

    // The gateway has done it, and its answer is lost; then the worker dies as it writes the trouble down.
    let gate = world.gate("update of attempts on refunds").await;
    let first = world.worker_asking(gateways.clone(), PipelineSettings::default());
    eventually("the gateway was asked", async || simulator.ledger().refunds().len() == 1).await;
    eventually("the worker writes that down", async || world.waiting_for_locks().await == 1).await;
    first.crash().await;
    gate.open().await;

    // The next one asks again, under the same number; it dies as it writes down that the refund is on its way.
    world
        .execute("drop trigger gate on refunds; drop function pass_gate; update refunds set next_attempt_at = now()")
        .await;
    let gate = world.gate("update of attempts on refunds").await;
    let second = world.worker_asking(gateways.clone(), PipelineSettings::default());
    eventually("the worker writes that down", async || world.waiting_for_locks().await == 1).await;
    second.crash().await;
    gate.open().await;
    world.execute("update refunds set next_attempt_at = now()").await;

    let third = world.worker_asking(gateways, PipelineSettings::default());
    refund_becomes(&world, &order.id, "succeeded").await;
    let refunds = simulator.ledger().refunds();
    assert_eq!(refunds.len(), 1, "{refunds:?}");
    assert!(refunds.values().all(|refund| refund.requests >= 2), "it was asked for again: {refunds:?}");
    third.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_do_not_ask_for_the_same_refund_at_once() {
    let (world, simulator, gateways) = scene().await;
    let orders = join_all((0..20).map(|_| late_payment(&world, &simulator, &[(Refund(1), Mishap::Slow(500))]))).await;
    for order in &orders {
        notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
    }
    let workers = [(); 2].map(|()| world.worker_asking(gateways.clone(), PipelineSettings::default()));
    for order in &orders {
        refund_becomes(&world, &order.id, "succeeded").await;
    }
    let refunds = simulator.ledger().refunds();
    assert_eq!(refunds.len(), 20);
    assert!(refunds.values().all(|refund| refund.requests == 1), "{refunds:?}");
    for worker in workers {
        worker.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_followed_up_until_it_arrives_or_needs_a_person() {
    let (world, simulator, _) = scene().await;
    let gateways = gateways(&simulator, GatewaySettings { attempts_max: 8, ..impatient() });
    let abnormal = late_payment(&world, &simulator, &[(Refund(1), Mishap::Abnormal)]).await;
    let poor: Vec<_> = (1..=3).map(|call| (Refund(call), Mishap::NotEnough)).collect();
    let not_enough = late_payment(&world, &simulator, &poor).await;
    let flaky = [
        (Refund(1), Mishap::Error(500, "SYSTEM_ERROR".to_owned())),
        (Refund(2), Mishap::Unsigned),
        (Refund(3), Mishap::LoseAnswer),
        (Refund(4), Mishap::Html(502)),
    ];
    let flaky = late_payment(&world, &simulator, &flaky).await;
    let never: Vec<_> = (1..=60).map(|call| (Refund(call), Mishap::Error(400, "RULE_LIMIT".to_owned()))).collect();
    let never = late_payment(&world, &simulator, &never).await;
    for order in [&abnormal, &not_enough, &flaky, &never] {
        notify(&world, &gateways, simulator.notification(order.id.as_str())).await;
    }
    let worker = world.worker_asking(gateways.clone(), PipelineSettings::default());
    refund_becomes(&world, &not_enough.id, "succeeded").await;
    refund_becomes(&world, &flaky.id, "succeeded").await;
    refund_becomes(&world, &abnormal.id, "needs_person").await;
    refund_becomes(&world, &never.id, "needs_person").await;

    let listed = world.overdue(&["refunds", "list", "--state", "needs_person", "--json"]).await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.len(), 2);
    for refund in &listed {
        assert!(refund["problem"].as_str().is_some_and(|problem| !problem.is_empty()), "{refund}");
    }
    let table = world.overdue(&["refunds", "list"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for order in [&abnormal, &not_enough, &flaky, &never] {
        assert!(table.contains(&format!("overdue-{}", order.id)), "{table}");
    }
    // A person has done something about the other, and says so.
    let never_no = format!("overdue-{}", never.id);
    let resolve = ["refunds", "resolve", &never_no, "--note", "paid back by bank transfer"];
    assert_eq!(world.overdue(&resolve).await.status.code(), Some(0));
    assert_eq!(refund_state(&world, &never.id).await, "succeeded");
    assert_eq!(world.overdue(&resolve).await.status.code(), Some(1), "once");
    // A person has completed it at the gateway, which says so.
    let refund_no = format!("overdue-{}", abnormal.id);
    assert_eq!(notify(&world, &gateways, simulator.refund_notification(&refund_no)).await, NotificationOutcome::Refund);
    assert_eq!(simulator.ledger().trade(abnormal.id.as_str()).unwrap().state, State::Refunded);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_of_an_order_that_was_paid_in_cash_is_for_a_person() {
    let (world, simulator, gateways) = scene().await;
    let order =
        world.order_at_gateway(&simulator, &[(Query(1), Mishap::PayBefore), (Query(1), Mishap::Slow(1_000))]).await;
    let foreign = world.foreign().await;
    let worker = world.worker_asking(gateways, PipelineSettings::default());
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the gateway is being asked", async || {
        simulator.ledger().trade(order.id.as_str()).is_some_and(|trade| trade.calls[0] == 1)
    })
    .await;
    // Meanwhile the customer pays in cash.
    world
        .execute(
            "update orders set status = 'paid', paid_at = now(), transaction_id = 'cash';
             update inventory set reserved = 0",
        )
        .await;
    let for_a_person = "select count(*) from refunds where state = 'needs_person' and problem like '%cash%'";
    eventually("it is among the refunds", async || world.number(for_a_person).await == 1).await;
    assert_eq!(simulator.ledger().refunds().len(), 0, "which one goes back is for a person to say");
    foreign.queue_holds("overdue.v1.parked", 0).await;
    tokio::time::timeout(Duration::from_secs(60), worker.stop()).await.unwrap();
    world.close().await;
}
