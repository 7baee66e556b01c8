//! Unpaid orders close when their deadline passes; all others are left alone.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use tests::{World, eventually};
use worker::PipelineSettings;

const SOON: Duration = Duration::from_millis(1500);
const LATER: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_order_closes_and_its_stock_comes_back() {
    let world = World::with_timeouts(&["1500ms"]).await;
    world.stock("tea", 10).await;
    let (relay, worker) = (world.relay(), world.worker());
    let order = world.order_of(&[("tea", 3)], SOON).await;
    assert_eq!(world.shelf("tea").await, (7, 3));

    world.becomes(&order.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (10, 0));
    let early = world.number("select count(*) from orders where closed_at < payment_deadline").await;
    assert_eq!(early, 0, "closed before its deadline");
    let key = format!("payment-timeout:{}:{}", order.id, order.deadline);
    let recorded: (String, String) = sqlx::query_as("select order_id, outcome from idempotency_keys where key = $1")
        .bind(&key)
        .fetch_one(&world.pool)
        .await
        .unwrap_or_else(|_| panic!("no idempotency key {key}"));
    assert_eq!(recorded, (order.id.to_string(), "closed".to_owned()));
    assert_eq!(world.number("select count(*) from outbox where event is null").await, 0);
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paid_and_cancelled_orders_are_left_alone() {
    let world = World::with_timeouts(&["1500ms"]).await;
    world.stock("tea", 10).await;
    let (relay, worker) = (world.relay(), world.worker());
    let (paid, cancelled) = (world.order("tea", SOON).await, world.order("tea", SOON).await);
    world.pay(&paid.id, Some("wx-1")).await.unwrap();
    world.cancel(&cancelled.id).await.unwrap();

    eventually("the worker has looked at both", async || worker.counted().unchanged == 2).await;
    assert_eq!((world.status(&paid.id).await, world.status(&cancelled.id).await), ("paid".into(), "cancelled".into()));
    assert_eq!(world.shelf("tea").await, (9, 0), "one is sold, one is back");
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 0);
    assert_eq!(world.number("select count(*) from idempotency_keys").await, 0);
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_timeout_does_not_wait_for_a_long_one() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 300).await;
    let (relay, worker) = (world.relay(), world.worker());
    // The long ones go first, so that they would be ahead in a common queue.
    let mut short = Vec::new();
    for _ in 0..20 {
        for long in [Duration::from_secs(120), Duration::from_secs(90), Duration::from_secs(31)] {
            world.order("tea", long).await;
        }
        short.push(world.order("tea", Duration::from_secs(2)).await);
    }
    for order in &short {
        world.becomes(&order.id, "closed").await;
    }
    let closed = world.number("select count(*) from orders where status = 'closed'").await;
    let overtaken = world
        .number(
            "select count(*) from orders
             where status = 'pending' and payment_deadline > (select max(closed_at) from orders where status = 'closed')",
        )
        .await;
    assert_eq!((closed, overtaken), (20, 60), "the short ones, and they alone, are closed while the long ones wait");
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_duplicates_close_once_and_release_once() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let foreign = world.foreign().await;
    for _ in 0..10 {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    // Small batches, so that the duplicates do not all fall into one.
    let worker = world.worker_with(PipelineSettings {
        batch_orders_max: 2,
        prefetch_messages: 2,
        ..PipelineSettings::default()
    });
    eventually("all ten are handled", async || worker.counted().messages == 10).await;
    assert_eq!(world.shelf("tea").await, (5, 0));
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 1);
    assert_eq!(world.number("select count(*) from idempotency_keys").await, 1);
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_message_waits_for_the_deadline() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(3)).await;
    world.execute("delete from outbox").await;
    let worker = world.worker();
    // Nothing else will bring this order to attention.
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("the worker has sent it on", async || worker.counted().waiting >= 1).await;
    assert_eq!(world.status(&order.id).await, "pending");

    world.becomes(&order.id, "closed").await;
    assert_eq!(world.number("select count(*) from orders where closed_at < payment_deadline").await, 0);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extended_deadline_holds() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    world.set_deadline(&order.id, 3660.0).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the worker has sent it on", async || worker.counted().waiting == 1).await;
    assert_eq!(world.status(&order.id).await, "pending");
    foreign.queue_holds("overdue.v1.delay.1h", 1).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_together_is_settled_together() {
    let world = World::new().await;
    world.stock("tea", 1000).await;
    let orders = join_all((0..600).map(|_| world.order("tea", LATER))).await;
    world.execute("update orders set payment_deadline = clock_timestamp()").await;
    let foreign = world.foreign().await;
    for order in &orders {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    foreign.queue_holds("overdue.v1.due.payment", 600).await;
    let worker = world.worker_with(PipelineSettings { pipelines: 1, ..PipelineSettings::default() });
    eventually("all are closed", async || worker.counted().closed == 600).await;
    let batches = worker.counted().batches;
    assert!(batches <= 60, "600 orders took {batches} batches");
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_sku_with_many_pipelines_makes_no_deadlock() {
    let world = World::new().await;
    for sku in ["a", "b", "c", "d"] {
        world.stock(sku, 100_000).await;
    }
    // Everybody wants the same SKUs, and names them in different orders.
    let baskets = [[("a", 1), ("b", 2), ("c", 1)], [("c", 2), ("b", 1), ("a", 1)], [("b", 1), ("d", 1), ("a", 3)]];
    let orders = join_all((0..600).map(|number| world.order_of(&baskets[number % 3], LATER))).await;
    world.execute("update orders set payment_deadline = clock_timestamp(); delete from outbox").await;
    let foreign = world.foreign().await;
    // Twice, and the second time backwards, so that batches overlap.
    for order in orders.iter().chain(orders.iter().rev()) {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    let settings =
        PipelineSettings { pipelines: 4, batch_orders_max: 25, prefetch_messages: 50, ..PipelineSettings::default() };
    let workers = [world.worker_with(settings.clone()), world.worker_with(settings)];
    // Customers go on ordering the same SKUs, and cancel again.
    let shopping = join_all((0..100).map(async |number| {
        let order = world.order_of(&baskets[number % 3], LATER).await;
        world.cancel(&order.id).await.unwrap();
    }));
    shopping.await;
    eventually("all messages are handled", async || {
        workers.iter().map(|worker| worker.counted().messages).sum::<u64>() == 1200
    })
    .await;
    assert_eq!(world.number("select count(*) from orders where status = 'closed'").await, 600);
    for sku in ["a", "b", "c", "d"] {
        assert_eq!(world.shelf(sku).await, (100_000, 0));
    }
    world.no_deadlocks().await;
    world.audit().await;
    for worker in workers {
        assert_eq!(worker.counted().held, 0, "no statement had to be tried again");
        worker.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_order_in_a_message_does_not_hold_up_the_others() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    world.stock("broken", 50).await;
    let good = [world.overdue_order("tea").await, world.overdue_order("tea").await, world.overdue_order("tea").await];
    let bad = world.overdue_order("broken").await;
    // Stock that somebody took out by hand: releasing it would make it negative, which the table refuses.
    world.execute("update inventory set reserved = 0 where sku_id = 'broken'").await;
    let entry = |id: &order::OrderId| format!("{{\"id\":\"{id}\"}}");
    let entries = [entry(&good[0].id), entry(&good[1].id), entry(&bad.id), entry(&good[2].id)];
    let foreign = world.foreign().await;
    let body = format!("{{\"v\":1,\"orders\":[{}]}}", entries.join(","));
    foreign.publish("overdue.due", "30m.payment", body.as_bytes(), BasicProperties::default()).await;

    let worker = world.worker();
    for order in &good {
        world.becomes(&order.id, "closed").await;
    }
    let parked = foreign.parked(1).await;
    assert_eq!(parked[0].reason(), "refused_by_database");
    assert_eq!(parked[0].body, format!("{{\"v\":1,\"orders\":[{}]}}", entry(&bad.id)).as_bytes(), "it alone is parked");
    assert_eq!(world.status(&bad.id).await, "pending");
    assert_eq!(world.shelf("tea").await, (50, 0));
    worker.stop().await;
    world.close().await;
}
