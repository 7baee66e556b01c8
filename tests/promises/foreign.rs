//! A service in another language publishes order IDs and needs to know no more than the exchange and the key.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;
use tests::{World, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::api::{Server, TOKEN};

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_closes_orders_with_a_bare_id() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let orders = [world.overdue_order("tea").await, world.overdue_order("tea").await];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/publish.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["--lane", "1s", &world.amqp_url, orders[0].id.as_str(), orders[1].id.as_str()])
        .output()
        .await
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let worker = world.worker();
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!(world.shelf("tea").await, (5, 0));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_a_shops_own_drops_an_order_when_an_event_tells_of_it() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(1800)).await;
    let (server, relay) = (Server::start(&world, &[]).await, world.relay());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/cache.py");
    let mut cache = Command::new("python3")
        .arg(script)
        .arg(&server.base)
        .envs([("OVERDUE_AMQP_URL", world.amqp_url.as_str()), ("OVERDUE_API_TOKEN", TOKEN)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python runs");
    let (mut asks, answers) = (cache.stdin.take().expect("piped"), cache.stdout.take().expect("piped"));
    let mut answers = BufReader::new(answers).lines();
    let mut next = async || answers.next_line().await.expect("it can be read").expect("it goes on");
    let id = order.id.to_string();
    assert_eq!(next().await, "listening");
    for expected in ["pending loaded", "pending kept"] {
        asks.write_all(format!("{id}\n").as_bytes()).await.unwrap();
        assert_eq!(next().await, expected);
    }
    server.post(&format!("/orders/{id}/pay"), json!({ "transaction_id": "t-1" })).await;
    assert_eq!(next().await, format!("dropped {id}"));
    asks.write_all(format!("{id}\n").as_bytes()).await.unwrap();
    assert_eq!(next().await, "paid loaded");
    relay.stop().await;
    world.close().await;
}

/// On RabbitMQ 4 such messages overtake others in a quorum queue. Of those with less only every third comes out, when the
/// two before it have waited for as long as their lane says. So forty of ours would take two minutes behind this
/// flow, which never ends.
#[tokio::test(flavor = "multi_thread")]
async fn messages_with_a_priority_make_no_order_of_ours_late() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let later = world.order("tea", Duration::from_hours(1)).await;
    let (relay, worker) = (world.relay(), world.worker());
    for number in 0..40 {
        // Each has a message of its own.
        world.order("tea", Duration::from_millis(5_500 + number * 20)).await;
    }
    let foreign = world.foreign().await;
    let flow = tokio::spawn(async move {
        loop {
            let urgent = BasicProperties::default().with_priority(9).with_app_id("shop-7".into());
            foreign.publish("overdue.delay", "5s.payment", later.id.as_str().as_bytes(), urgent).await;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
    });
    eventually("all are closed", async || {
        world.number("select count(*) from orders where status = 'closed'").await == 40
    })
    .await;
    flow.abort();
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}
