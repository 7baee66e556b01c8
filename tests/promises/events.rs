//! Facts are announced: each once written down, sent at least once, under the same ID each time. And all that crosses
//! RabbitMQ is what `docs/asyncapi.json` says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use book::{Actor, Closing};
use lapin::options::ExchangeDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use order::OrderId;
use serde_json::{Value, json};
use tests::{Foreign, World, eventually, gateways, impatient, simulator};
use worker::{PipelineSettings, UnknownOrders};

/// A queue that gets every event.
const LISTENER: &str = "listener";

async fn listen(foreign: &Foreign) {
    foreign.subscribe(LISTENER, "#").await;
}

/// Waits until there are so many events, and takes them.
async fn heard(foreign: &Foreign, count: u32) -> Vec<(String, Value)> {
    foreign.queue_holds(LISTENER, count).await;
    let messages = foreign.take(LISTENER, count as usize).await;
    let event = |message: tests::ParkedMessage| (message.routing_key, serde_json::from_slice(&message.body).unwrap());
    messages.into_iter().map(event).collect()
}

pub(crate) fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/asyncapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails unless the value is of the schema that the document has for the payload (or the headers) of this message.
pub(crate) fn assert_message(document: &Value, message: &str, part: &str, value: &Value) {
    let mut schema = document["components"]["messages"][message][part].clone();
    assert!(schema.is_object(), "the document knows no {part} of {message}");
    schema["components"] = document["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{message} {part}: {errors:?} in {value}");
}

fn headers_json(headers: &FieldTable) -> Value {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::LongUInt(number) => json!(number),
        AMQPValue::FieldArray(values) => {
            json!(
                values
                    .as_slice()
                    .iter()
                    .map(|value| match value {
                        AMQPValue::LongString(text) => json!(text.to_string()),
                        other => json!(format!("{other:?}")),
                    })
                    .collect::<Vec<_>>()
            )
        }
        other => json!(format!("{other:?}")),
    };
    headers.inner().iter().map(|(name, header)| (name.to_string(), value(header))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fact_is_announced_as_the_document_says() {
    let (world, simulator, document) = (World::new().await, simulator().await, document());
    world.stock("tea", 10).await;
    let foreign = world.foreign().await;
    listen(&foreign).await;
    let gateways = gateways(&simulator, impatient());

    let (closed, paid) = (world.overdue_order("tea").await, world.order("tea", Duration::from_secs(3600)).await);
    let paid_there = world.order_at_gateway(&simulator, &[]).await;
    assert!(simulator.ledger().pay(paid_there.id.as_str()));
    let late = world.order_at_gateway(&simulator, &[]).await;
    world.execute("delete from outbox").await;
    let cancelled = "update orders set status = 'cancelled' where id = ";
    world.execute(&format!("{cancelled} '{}'", late.id)).await;
    world.execute("update inventory set reserved = reserved - 1, available = available + 1").await;
    assert!(simulator.ledger().pay(late.id.as_str()));

    world.pay(&paid.id, Some("by-hand")).await.unwrap();
    let worker = world.worker_asking(gateways, PipelineSettings::default());
    for order in [&closed, &paid_there, &late] {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    let relay = world.relay();
    let events = heard(&foreign, 5).await;
    let found: BTreeMap<(String, String), Value> = events
        .into_iter()
        .map(|(key, event)| {
            assert_eq!(event["type"], key);
            ((key, event["subject"].as_str().unwrap().to_owned()), event)
        })
        .collect();
    let of = |kind: &str, id: &OrderId| {
        found.get(&(kind.to_owned(), id.to_string())).unwrap_or_else(|| panic!("{kind} of {id} in {found:?}"))
    };
    for (message, kind, order) in [
        ("OrderClosed", "order.closed", &closed),
        ("OrderPaid", "order.paid", &paid),
        ("OrderPaid", "order.paid", &paid_there),
        ("PaymentLate", "payment.late", &late),
        ("PaymentRefunded", "payment.refunded", &late),
    ] {
        let event = of(kind, &order.id);
        assert_message(&document, message, "payload", event);
        assert_eq!(event["data"]["order_id"], order.id.as_str());
        assert_eq!(event["data"]["amount_minor"], 1999);
    }
    assert_eq!(of("order.closed", &closed.id)["id"], format!("payment-timeout:{}:{}", closed.id, closed.deadline));
    assert_eq!(of("order.paid", &paid.id)["data"]["gateway"], Value::Null);
    assert_eq!(of("order.paid", &paid_there.id)["data"]["gateway"], "wechat");
    eventually("the outbox is empty", async || world.number("select count(*) from outbox").await == 0).await;
    worker.stop().await;
    relay.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_leaves_a_row_for_256_events_and_a_message_for_each() {
    const ORDERS: u32 = 600;
    let world = World::new().await;
    world.stock("tea", 1_000).await;
    let foreign = world.foreign().await;
    listen(&foreign).await;
    let mut closings = Vec::new();
    for _ in 0..ORDERS {
        let order = world.overdue_order("tea").await;
        let (id, deadline) = (order.id, order.deadline);
        closings.push(Closing { id, deadline, revision: None, payments: Vec::new(), recheck: None });
    }
    world.book().settle(&closings, &Actor::on_timeout("test"), None).await.unwrap();
    let rows: Vec<i32> =
        sqlx::query_scalar("select events from outbox order by events").fetch_all(&world.pool).await.unwrap();
    assert_eq!(rows, [88, 256, 256]);
    let relay = world.relay();
    let mut subjects: Vec<String> = heard(&foreign, ORDERS)
        .await
        .into_iter()
        .map(|(_, event)| {
            assert_eq!(event["data"]["order_id"], event["subject"]);
            event["id"].as_str().unwrap().to_owned()
        })
        .collect();
    subjects.sort_unstable();
    let mut expected: Vec<String> =
        closings.iter().map(|closing| format!("payment-timeout:{}:{}", closing.id, closing.deadline)).collect();
    expected.sort_unstable();
    assert_eq!(subjects, expected);
    eventually("the outbox is empty", async || world.number("select count(*) from outbox").await == 0).await;
    relay.stop().await;
    world.close().await;
}

/// Between two passes events give way to orders that are being settled, so no pass may be long.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_takes_some_hundred_events_however_many_a_row_has() {
    let world = World::new().await;
    world
        .execute(
            "insert into outbox (order_id, due_at, event, event_id, data, events)
             select 'x-' || n, clock_timestamp(), 'order.closed', 'e-' || n, '{}', case n when 1 then 1 else 256 end
             from generate_series(1, 20) n",
        )
        .await;
    let gate = world.gate("delete on outbox").await;
    let relay = world.relay();
    eventually("the first are sent", async || world.waiting_for_locks().await == 1).await;
    assert_eq!(world.number("select sum(events)::bigint from outbox where claimed_until is not null").await, 513);
    gate.open().await;
    eventually("all are sent", async || world.number("select count(*) from outbox").await == 0).await;
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_sent_again_has_the_same_id() {
    let world = World::new().await;
    world.stock("tea", 1).await;
    let foreign = world.foreign().await;
    listen(&foreign).await;
    let order = world.overdue_order("tea").await;
    let (id, deadline) = (order.id.clone(), order.deadline);
    let closing = Closing { id, deadline, revision: None, payments: Vec::new(), recheck: None };
    world.book().settle(&[closing], &Actor::on_timeout("test"), None).await.unwrap();
    let gate = world.gate("delete on outbox").await;
    let short_lease = ["run", "--only", "relay", "--claim-lease", "500ms", "--confirm-timeout", "400ms"];
    let relay = world.start(&short_lease);
    eventually("the relay is about to delete", async || world.waiting_for_locks().await == 1).await;
    relay.kill().await;
    world.disconnect_everybody().await;
    gate.open().await;
    let relay = world.start(&short_lease);
    let events = heard(&foreign, 2).await;
    assert_eq!(events[0].1, events[1].1, "the same, to the byte");
    eventually("the outbox is empty", async || world.number("select count(*) from outbox").await == 0).await;
    relay.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_needs_to_listen_and_no_timeout_waits_for_events() {
    let world = World::new().await;
    world.stock("tea", 1).await;
    // As a flash sale leaves them.
    world
        .execute(
            "insert into outbox (order_id, due_at, event, event_id, data)
         select 'x-' || n, clock_timestamp(), 'order.closed', 'e-' || n, '{}' from generate_series(1, 20000) n",
        )
        .await;
    let order = world.order("tea", Duration::from_secs(1800)).await;
    let gate = world.gate("delete on outbox").await;
    let relay = world.relay();
    // It is with the first that go out, although all the events were there before it.
    world.foreign().await.queue_holds("overdue.v1.delay.30m", 1).await;
    assert!(world.number("select count(*) from outbox where event is not null").await == 20_000);
    gate.open().await;
    eventually("all are sent", async || world.number("select count(*) from outbox").await == 0).await;
    eventually("the order is counted", async || relay.relayed() == (1, 0)).await;
    assert_eq!(world.status(&order.id).await, "pending");
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_ours_are_as_the_document_says() {
    let (world, simulator, document) = (World::new().await, simulator().await, document());
    world.stock("tea", 10).await;
    let foreign = world.foreign().await;
    let relay = world.relay();
    world.order("tea", Duration::from_secs(1800)).await;
    foreign.queue_holds("overdue.v1.delay.30m", 1).await;
    let timeout = foreign.take("overdue.v1.delay.30m", 1).await.remove(0);
    assert_message(&document, "Timeout", "payload", &serde_json::from_slice(&timeout.body).unwrap());
    relay.stop().await;

    // An order that is handed over, one that nobody knows and goes round once more, and one that is parked for it.
    let at_gateway = world.order_at_gateway(&simulator, &[]).await;
    let unknown = UnknownOrders { attempts_max: 2, ..UnknownOrders::default() };
    let settings = PipelineSettings { gateway_pipelines: 0, unknown, ..PipelineSettings::default() };
    let worker = world.worker_asking(gateways(&simulator, impatient()), settings);
    foreign.due_now(at_gateway.id.as_str().as_bytes()).await;
    foreign.queue_holds("overdue.v1.due.gateway", 1).await;
    let check = foreign.take("overdue.v1.due.gateway", 1).await.remove(0);
    assert_message(&document, "GatewayCheck", "payload", &serde_json::from_slice(&check.body).unwrap());
    foreign.due_now(b"nobody-knows-me").await;
    let parked = foreign.parked(1).await.remove(0);
    let headers = headers_json(&parked.headers);
    assert_message(&document, "Parked", "headers", &headers);
    assert_eq!(headers["x-overdue-attempts-made"], 1, "one attempt came before the last");
    assert_eq!(headers["x-overdue-history"].as_array().unwrap().len(), 1);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_broker_does_not_take_holds_up_no_timeout() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    let foreign = world.foreign().await;
    foreign.channel.exchange_delete("overdue.events".into(), ExchangeDeleteOptions::default()).await.unwrap();
    world
        .execute("insert into outbox (order_id, due_at, event, event_id, data) values ('x', now(), 'order.closed', 'e', '{}')")
        .await;
    let relay = world.relay();
    eventually("the event was refused", async || relay.relayed().1 >= 1).await;
    for _ in 0..50 {
        world.order("tea", Duration::from_secs(1800)).await;
    }
    let timeouts = "select count(*) from outbox where event is null";
    eventually("all timeouts are sent", async || world.number(timeouts).await == 0).await;
    eventually("each is counted, once", async || relay.relayed().0 == 50).await;
    assert_eq!(world.number("select count(*) from outbox").await, 1, "the event stays");
    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    eventually("it is sent, too", async || world.number("select count(*) from outbox").await == 0).await;
    relay.stop().await;
    world.close().await;
}
