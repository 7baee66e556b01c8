//! Lanes and due queues that are spread over several queues each.

use std::time::Duration;

use broker::{Management, verify};
use lapin::BasicProperties;
use lapin::options::BasicGetOptions;
use serde_json::Value;
use shop::Order;
use tests::{World, env, eventually};

const DUE: [&str; 3] = ["overdue.v1.due.payment", "overdue.v1.due.payment.1", "overdue.v1.due.payment.2"];

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_spread_over_all_shards_and_each_is_worked_on() {
    let world = World::sharded(3).await;
    world.stock("tea", 1000).await;
    let mut orders = Vec::new();
    for _ in 0..60 {
        orders.push(world.order("tea", Duration::from_millis(200)).await);
    }
    let relay = world.relay();
    let foreign = world.foreign().await;
    // Each order waits in the queue of its shard, once, and nowhere else.
    let mut found = Vec::new();
    eventually("all are due", async || {
        for queue in DUE {
            while let Some(message) = foreign.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()
            {
                let body: Value = serde_json::from_slice(&message.delivery.data).unwrap();
                let ids =
                    body["orders"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned());
                found.extend(ids.map(|id| (id, queue)));
            }
        }
        found.len() >= orders.len()
    })
    .await;
    let own_queue = |order: &Order| {
        let end = format!("payment{}", world.lanes.shards().of(order.id.as_str()));
        (order.id.to_string(), DUE.into_iter().find(|queue| queue.ends_with(&end)).unwrap())
    };
    let mut expected: Vec<(String, &str)> = orders.iter().map(own_queue).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for queue in DUE {
        assert!(found.iter().any(|(_, other)| *other == queue), "{queue} would have nothing to do");
    }
    // What was looked at goes back.
    drop(foreign);
    let worker = world.worker();
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!(worker.counted().closed, 60);
    world.audit().await;
    worker.stop().await;
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_may_use_any_shard_and_what_waits_longer_stays_in_it() {
    let world = World::sharded(3).await;
    world.stock("tea", 1000).await;
    let foreign = world.foreign().await;
    let worker = world.worker();
    for key in ["1s.payment", "1s.payment.1", "1s.payment.2"] {
        let order = world.order("tea", Duration::from_secs(3)).await;
        world.execute("delete from outbox where event is null").await;
        // It comes two seconds early, and goes round once more.
        foreign.publish("overdue.delay", key, order.id.as_str().as_bytes(), BasicProperties::default()).await;
        world.becomes(&order.id, "closed").await;
    }
    let counted = worker.counted();
    assert!(counted.waiting >= 3, "each came early: {counted:?}");
    assert_eq!(counted.closed, 3);
    // A shard that there is not: for a person.
    foreign.publish("overdue.delay", "1s.payment.7", b"o-x", BasicProperties::default()).await;
    foreign.parked(1).await;
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_added_while_orders_wait() {
    let mut world = World::new().await;
    world.stock("tea", 1000).await;
    let before = world.order("tea", Duration::from_secs(2)).await;
    let relay = world.relay();
    eventually("it is sent", async || relay.relayed().0 == 1).await;
    relay.stop().await;

    world.spread(3).await;
    let management = Management::new(&env("OVERDUE_MANAGEMENT_URL").into()).unwrap();
    let verified = verify(&broker::Topology::new(&world.lanes), &world.broker(), Some(&management)).await.unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    let (relay, worker) = (world.relay(), world.worker());
    let mut after = Vec::new();
    for _ in 0..20 {
        after.push(world.order("tea", Duration::from_millis(200)).await);
    }
    for order in after.iter().chain([&before]) {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!(worker.counted().closed, 21);
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_is_told_of_shards() {
    let world = World::sharded(2).await;
    world.stock("tea", 10).await;
    let process = world.start(&["run", "--only", "relay,worker"]);
    process.says("queue=\"overdue.v1.due.payment.1\"").await;
    let order = world.order("tea", Duration::from_millis(200)).await;
    world.becomes(&order.id, "closed").await;
    for wrong in ["0", "65", "many"] {
        let output = world.overdue(&["topology", "export", "--shards", wrong]).await;
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
    world.close().await;
}
