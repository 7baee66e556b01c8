//! What cannot be settled now is tried again later, in lanes, and its attempts are counted.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use retry::Policy;
use tests::{Proxy, World, eventually};
use url::Url;
use worker::{PipelineSettings, UnknownOrders};

fn soon(attempts_max: u32) -> PipelineSettings {
    let back_off = Policy { initial: Duration::from_millis(20), max: Duration::from_millis(100) };
    PipelineSettings { unknown: UnknownOrders { attempts_max, back_off }, ..PipelineSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_message_was_faster_than_its_commit_is_closed() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let foreign = world.foreign().await;
    let worker = world.worker_with(soon(1000));
    foreign.due_now(b"o-0").await;
    eventually("it was looked for twice", async || worker.counted().looked_at_again >= 2).await;
    let order = world.overdue_order("tea").await;
    assert_eq!(order.id.as_str(), "o-0");
    world.becomes(&order.id, "closed").await;
    assert_eq!(worker.counted().parked, 0);
    assert_eq!(world.shelf("tea").await, (5, 0));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_knows_is_parked_with_its_history_and_its_bytes() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let worker = world.worker_with(soon(4));
    let properties = BasicProperties::default().with_message_id("m-1".into());
    foreign.publish("overdue.due", "30m.payment", b"nobody-knows-me", properties).await;
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!((parked.reason().as_str(), parked.body.as_slice()), ("unknown_order", &b"nobody-knows-me"[..]));
    assert_eq!(parked.header("x-overdue-original-message-id").as_deref(), Some("m-1"), "that of the first message");
    assert_eq!(parked.headers.inner().get("x-overdue-attempts-made"), Some(&AMQPValue::LongUInt(3)));
    let Some(AMQPValue::FieldArray(history)) = parked.headers.inner().get("x-overdue-history") else {
        panic!("no history: {parked:?}")
    };
    assert_eq!(history.as_slice().len(), 3);
    assert_eq!(worker.counted().looked_at_again, 3);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_unknown_orders_of_a_message_go_round_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let known = world.overdue_order("tea").await;
    let foreign = world.foreign().await;
    let worker = world.worker_with(soon(3));
    let body = format!(r#"{{"v":1,"orders":[{{"id":"u-1"}},{{"id":"{}"}},{{"id":"u-2"}},{{"id":"u-1"}}]}}"#, known.id);
    foreign.publish("overdue.due", "30m.payment", body.as_bytes(), BasicProperties::default()).await;
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!(String::from_utf8(parked.body).unwrap(), r#"{"v":1,"orders":[{"id":"u-1"},{"id":"u-2"}]}"#);
    assert_eq!(world.status(&known.id).await, "closed");
    assert_eq!(worker.counted().looked_at_again, 4);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_held_for_too_long_goes_back_and_comes_again_when_the_database_is_back() {
    let mut world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let mut url: Url = world.database_url.parse().unwrap();
    let proxy = Proxy::to(&format!("127.0.0.1:{}", url.port().unwrap())).await;
    url.set_port(Some(proxy.port())).unwrap();
    let direct = std::mem::replace(&mut world.database_url, url.to_string());
    let foreign = world.foreign().await;
    let worker = world.worker_with(PipelineSettings {
        pipelines: 1,
        gateway_pipelines: 0,
        timer_pipelines: 0,
        hold_max: Duration::from_millis(600),
        ..PipelineSettings::default()
    });
    eventually("it consumes", async || worker.counted().consumers_open == 1).await;
    proxy.cut();
    foreign.due_now(order.id.as_str().as_bytes()).await;
    // Given back, and not taken again: nobody consumes while the database is away.
    eventually("it does not consume", async || worker.counted().consumers_open == 0).await;
    foreign.queue_holds("overdue.v1.due.payment", 1).await;
    proxy.pass();
    world.becomes(&order.id, "closed").await;
    assert_eq!(worker.counted().parked, 0);
    worker.stop().await;
    world.database_url = direct;
    world.close().await;
}
