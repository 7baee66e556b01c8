//! What the lanes do not keep waits in the outbox, and does not go round as fast as the servers can.

use std::time::Duration;

use relay::RelaySettings;
use reqwest::Method;
use serde_json::json;
use tests::{World, eventually, management};

const ORDERS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_lanes_push_out_waits_in_the_outbox_and_is_closed_in_time() {
    for (kind, definition) in [
        ("policies", json!({ "max-length": 2, "overflow": "drop-head" })),
        ("operator-policies", json!({ "message-ttl": 20 })),
    ] {
        let world = World::new().await;
        world.stock("tea", 100).await;
        let policy = json!({ "pattern": "[.]delay[.]", "definition": definition, "apply-to": "queues" });
        management(Method::PUT, &[kind, &world.vhost, "tidy"], Some(policy)).await;
        // Each order has a message of its own.
        let apart = RelaySettings { window: Duration::from_millis(10), ..RelaySettings::default() };
        let (relay, worker) = (world.relay_with(apart), world.worker());
        let mut orders = Vec::new();
        for number in 0..ORDERS {
            orders.push(world.order("tea", Duration::from_millis(13_000 + u64::from(number) * 50)).await);
        }
        eventually("those that were pushed out wait", async || worker.counted().early >= 15).await;
        let counted = worker.counted();
        assert!(counted.messages < 10 * u64::from(ORDERS), "they went round: {counted:?}");
        management(Method::DELETE, &[kind, &world.vhost, "tidy"], None).await;
        for order in &orders {
            world.becomes(&order.id, "closed").await;
        }
        let counted = worker.counted();
        assert!(counted.messages < 30 * u64::from(ORDERS), "they went round: {counted:?}");
        assert_eq!(world.number("select count(*) from outbox where event is null").await, 0);
        relay.stop().await;
        worker.stop().await;
        world.audit().await;
        world.close().await;
    }
}

/// A foreign message may say whatever it likes of its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_time_delays_no_more_than_its_own_message() {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};

    let world = World::new().await;
    world.stock("tea", 100).await;
    let (relay, worker) = (world.relay(), world.worker());
    let first = world.overdue_order("tea").await;
    let foreign = world.foreign().await;
    // The worker knows the database's time from its first batch on.
    foreign.due_now(first.id.as_str().as_bytes()).await;
    world.becomes(&first.id, "closed").await;
    let order = world.overdue_order("tea").await;
    for time in [i64::MAX, i64::MIN, 4_000_000_000_000, 0] {
        let mut headers = FieldTable::default();
        headers.insert("x-overdue-until".into(), AMQPValue::LongLongInt(time));
        let properties = BasicProperties::default().with_headers(headers);
        foreign.publish("overdue.due", "30m.payment", b"no-such-order", properties).await;
    }
    foreign.due_now(order.id.as_str().as_bytes()).await;
    world.becomes(&order.id, "closed").await;
    eventually("the one from the far future waits", async || {
        world.number("select count(*) from outbox where order_id = 'no-such-order'").await == 1
    })
    .await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}
