//! What cannot be understood is set aside with its reason, its bytes and its headers, and nothing else suffers.

use broker::wire;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};
use tests::{World, eventually};
use worker::{PipelineSettings, UnknownOrders};

fn headers(pairs: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Orders that the database does not know are parked at the first attempt.
fn at_once() -> PipelineSettings {
    let unknown = UnknownOrders { attempts_max: 1, ..UnknownOrders::default() };
    PipelineSettings { unknown, ..PipelineSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_bad_message_is_parked_whole() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let entries = vec![r#"{"id":"1"}"#; wire::ORDERS_MAX + 1].join(",");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not_utf8", b"84\xff\xfe".to_vec()),
        ("not_json", br#"{"v":1,"orders":[{"#.to_vec()),
        ("unknown_version", br#"{"v":2,"orders":[{"id":"1"}]}"#.to_vec()),
        ("unknown_version", br#"{"orders":[{"id":"1"}]}"#.to_vec()),
        ("no_orders", br#"{"v":1,"orders":[]}"#.to_vec()),
        ("illegal_order_id", b"842 317; drop table orders".to_vec()),
        ("illegal_order_id", b"".to_vec()),
        ("illegal_order_id", "9".repeat(65).into_bytes()),
        ("illegal_order_id", br#"{"v":1,"orders":[{"id":"a b"}]}"#.to_vec()),
        ("malformed_entry", br#"{"v":1,"orders":[{"id":842317}]}"#.to_vec()),
        ("too_many_orders", format!(r#"{{"v":1,"orders":[{entries}]}}"#).into_bytes()),
        ("too_large", vec![b'9'; wire::BODY_BYTES_MAX + 1]),
        ("unknown_order", b"nobody-knows-me".to_vec()),
    ];
    let worker = world.worker_with(at_once());
    for (number, (reason, body)) in cases.iter().enumerate() {
        let properties = headers(&[("case", text(&number.to_string()))]).with_message_id("m-1".into());
        foreign.publish("overdue.due", "30m.payment", body, properties).await;
        let parked = foreign.parked(1).await.remove(0);
        assert_eq!(parked.reason(), *reason, "case {number}");
        assert_eq!(parked.body, *body, "case {number}: the bytes are the original ones");
        assert_eq!(parked.header("case"), Some(number.to_string()), "the headers are kept");
        assert_eq!(parked.header("x-overdue-original-message-id").as_deref(), Some("m-1"));
        assert!(parked.header("x-overdue-detail").is_some_and(|detail| !detail.is_empty()));
        assert_eq!(parked.routing_key, "30m.payment");
    }
    eventually("all are acked", async || worker.counted().messages == cases.len() as u64).await;
    assert_eq!(worker.counted().parked, cases.len() as u64);
    foreign.queue_holds("overdue.v1.due.payment", 0).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_park_alone_while_the_rest_settles() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let (first, last) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let foreign = world.foreign().await;
    let body = format!(
        r#"{{"v":1,"orders":[{{"id":"{}"}},{{"id":"b b", "note": "kept"}},7,{{"id":"unknown-1"}},{{"id":"{}"}}]}}"#,
        first.id, last.id
    );
    foreign.publish("overdue.due", "30m.payment", body.as_bytes(), BasicProperties::default()).await;
    let worker = world.worker_with(at_once());
    world.becomes(&first.id, "closed").await;
    world.becomes(&last.id, "closed").await;
    let mut parked: Vec<(String, String)> = foreign
        .parked(3)
        .await
        .into_iter()
        .map(|parked| (parked.reason(), String::from_utf8(parked.body).unwrap()))
        .collect();
    parked.sort();
    let expected = [
        ("illegal_order_id", r#"{"v":1,"orders":[{"id":"b b", "note": "kept"}]}"#),
        ("malformed_entry", r#"{"v":1,"orders":[7]}"#),
        ("unknown_order", r#"{"v":1,"orders":[{"id":"unknown-1"}]}"#),
    ];
    assert_eq!(parked, expected.map(|(reason, body)| (reason.to_owned(), body.to_owned())));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_messages_go_nowhere_else() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    // A CC header tells the broker to send the message to other keys as well. Were it kept when the message is
    // parked, a malformed one would even close the channel, each time anew.
    let mut elsewhere = FieldArray::default();
    elsewhere.push(AMQPValue::LongString(LongString::from("elsewhere")));
    let properties = headers(&[("CC", AMQPValue::FieldArray(elsewhere)), ("tenant", text("shop-7"))]);
    foreign.publish("overdue.due", "30m.payment", b"not an id", properties).await;
    let worker = world.worker();
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!((parked.reason().as_str(), parked.header("tenant").as_deref()), ("illegal_order_id", Some("shop-7")));
    assert!(!parked.headers.contains_key("CC") && parked.headers.contains_key("x-overdue-original-cc"));
    eventually("it is acked", async || worker.counted().messages == 1).await;
    assert_eq!(worker.counted().held, 0);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_lane_wants_is_rescued() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    foreign.publish("overdue.delay", "31m.payment", b"842317", BasicProperties::default()).await;
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!((parked.body.as_slice(), parked.routing_key.as_str()), (&b"842317"[..], "31m.payment"));
    world.close().await;
}

/// At once, and not after the half hour for which its lane would have held it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_known_is_parked_where_it_enters() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    for key in ["30m.receipt", "30m.PAYMENT", "30m", "30m.payments.1"] {
        foreign.publish("overdue.delay", key, b"842317", BasicProperties::default()).await;
        foreign.queue_holds("overdue.v1.parked", 1).await;
        foreign.queue_holds("overdue.v1.foreign.30m", 0).await;
        let listed = world.overdue(&["parked", "list", "--json"]).await;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed[0]["reason"], "unknown_kind", "{key}");
        assert_eq!((&listed[0]["body"], &listed[0]["routing_key"]), (&"842317".into(), &key.into()));
        assert!(world.overdue(&["parked", "drop", "--all", "--yes"]).await.status.success());
    }
    // One that came past the lanes, into a queue of another kind, is not taken for that kind.
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let (queue, exchange) = ("overdue.v1.due.payment", "overdue.due");
    let (options, nothing) = (lapin::options::QueueBindOptions::default(), FieldTable::default());
    foreign.channel.queue_bind(queue.into(), exchange.into(), "*.receipt".into(), options, nothing).await.unwrap();
    let worker = world.worker();
    foreign.publish(exchange, "30m.receipt", order.id.as_str().as_bytes(), BasicProperties::default()).await;
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!((parked.reason().as_str(), parked.routing_key.as_str()), ("unknown_kind", "30m.receipt"));
    assert_eq!(world.status(&order.id).await, "pending");
    // One that was sent straight to the queue is of the queue's kind.
    foreign.publish("", queue, order.id.as_str().as_bytes(), BasicProperties::default()).await;
    world.becomes(&order.id, "closed").await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_the_session_is_parked_alone() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let foreign = world.foreign().await;
    // A property that is not UTF-8: the AMQP library hangs up when it is to read this, each time anew.
    let publish = "import pika, sys; c = pika.BlockingConnection(pika.URLParameters(sys.argv[1])); \
                   c.channel().basic_publish('overdue.due', '30m.payment', b'unreadable', pika.BasicProperties(correlation_id=b'\\xff\\xfe\\x01', delivery_mode=2)); c.close()";
    let python = tokio::process::Command::new("python3").args(["-c", publish, &world.amqp_url]).output().await.unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let mut orders = Vec::new();
    for _ in 0..20 {
        let order = world.overdue_order("tea").await;
        foreign.due_now(order.id.as_str().as_bytes()).await;
        orders.push(order);
    }
    let worker = world.worker();
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    // The broker parks it at its delivery limit. No client of ours can read it there, so it is only counted.
    foreign.queue_holds("overdue.v1.parked", 1).await;
    assert_eq!(world.shelf("tea").await, (50, 0));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nothing_closes_is_parked_and_does_not_spin() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let order = world.overdue_order("tea").await;
    world
        .execute(
            "create function never() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger never before update on orders for each row execute function never()",
        )
        .await;
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    let worker = world.worker();
    assert_eq!(foreign.parked(1).await[0].reason(), "not_closed");
    assert_eq!((world.status(&order.id).await.as_str(), world.shelf("tea").await), ("pending", (49, 1)));
    worker.stop().await;
    world.close().await;
}

/// Properties that are not UTF-8, headers nested so deeply that reading them overflows a stack, keys that are no text: such a
/// message costs no process its life, and orders that it names close as any other.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_breaks_a_session_or_a_process_whatever_its_bytes() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let mut orders = Vec::new();
    for _ in 0..12 {
        orders.push(world.overdue_order("tea").await);
    }
    let named = orders[0].id.as_str();
    world
        .publish_oddly(&format!(
            "p = lambda body, key='30m.payment', **k: ch.basic_publish('overdue.due', key, body, pika.BasicProperties(delivery_mode=2, **k))\n  \
             [p(b'unreadable', correlation_id=b'\\xff\\xfe\\x01') for _ in range(20)]\n  \
             [p(b'no ID', headers=nested(depth, kind)) for depth in (40, 1000, 2500) for kind in ('table', 'list')]\n  \
             p(b'no ID', message_id=b'\\xc3')\n  \
             ch.basic_publish('overdue.delay', b'30m.\\xff\\xfe', b'842317', pika.BasicProperties(delivery_mode=2, headers={{'tenant': 'shop-7'}}))\n  \
             p(b'{named}', type=b'\\xff', headers=nested(2500, 'table'))"
        ))
        .await;
    let foreign = world.foreign().await;
    for order in &orders[1..] {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    let mut process = world.start(&["run", "--only", "worker"]);
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    foreign.queue_holds("overdue.v1.due.payment", 0).await;
    assert!(!process.has_ended(), "{}", process.log_text());
    assert!(!process.log_text().contains("the consumer cannot go on"), "{}", process.log_text());
    process.terminate().await;
    let listed = world.overdue(&["parked", "list", "--json"]).await;
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    assert_eq!(world.shelf("tea").await, (50, 0));
    world.close().await;
}
