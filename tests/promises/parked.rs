//! The parked queue in the hands of a person: looked at, sent in again, dropped; never lost by accident.

use std::time::Duration;

use book::{ParkedFilter, ParkedState, ParkedTable, Parking};
use database::Purpose;
use lapin::BasicProperties;
use serde_json::Value;
use tests::{Foreign, Proxy, World, eventually};
use url::Url;
use worker::{PipelineSettings, UnknownOrders};

/// Parks an order that nobody knows, one that is none, and one whose lane there is not.
async fn park_three(world: &World) -> Foreign {
    let foreign = world.foreign().await;
    let unknown = UnknownOrders { attempts_max: 1, ..UnknownOrders::default() };
    let worker = world.worker_with(PipelineSettings { unknown, ..PipelineSettings::default() });
    foreign.due_now(b"o-0").await;
    foreign.due_now(b"not an ID").await;
    foreign.publish("overdue.delay", "17m.payment", b"o-0", BasicProperties::default()).await;
    foreign.queue_holds("overdue.v1.parked", 3).await;
    worker.stop().await;
    foreign
}

async fn list(world: &World, arguments: &[&str]) -> Vec<Value> {
    let output = world.overdue(&[&["parked", "list", "--json"], arguments].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Sorted: what is given back may change its place.
fn reasons(messages: &[Value]) -> Vec<&str> {
    let mut reasons: Vec<&str> = messages.iter().map(|message| message["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    reasons
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_takes_nothing_away() {
    let world = World::new().await;
    let foreign = park_three(&world).await;
    for _ in 0..3 {
        let all = list(&world, &[]).await;
        assert_eq!(reasons(&all), ["illegal_order_id", "unknown_order", "unroutable"]);
    }
    assert_eq!(reasons(&list(&world, &["--reason", "unroutable"]).await), ["unroutable"]);
    assert_eq!(reasons(&list(&world, &["--order", "o-0"]).await), ["unknown_order", "unroutable"]);
    assert!(list(&world, &["--older-than", "1h"]).await.is_empty());
    let illegal = list(&world, &["--reason", "illegal_order_id"]).await;
    let shown = world.overdue(&["parked", "show", illegal[0]["id"].as_str().unwrap()]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("illegal_order_id") && shown.contains("body         not an ID"), "{shown}");
    assert_eq!(world.overdue(&["parked", "show", "4711"]).await.status.code(), Some(1));
    let table = String::from_utf8(world.overdue(&["parked", "list"]).await.stdout).unwrap();
    assert!(table.contains("unroutable"), "{table}");
    assert_eq!(world.number("select count(*) from parked where state = 'held' and times = 1").await, 3);
    foreign.queue_holds("overdue.v1.parked", 0).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_in_again_is_settled_and_what_is_not_stays() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let foreign = park_three(&world).await;
    assert_eq!(world.overdue(&["parked", "requeue"]).await.status.code(), Some(2), "say which");
    assert_eq!(world.overdue(&["parked", "requeue", "--reason", "nonsense"]).await.status.code(), Some(1));
    let order = world.overdue_order("tea").await;
    assert_eq!(order.id.as_str(), "o-0", "now it is known");
    let worker = world.worker();
    let output = world.overdue(&["parked", "requeue", "--order", "o-0"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 messages sent in again\n", "{output:?}");
    world.becomes(&order.id, "closed").await;
    eventually("both are handled", async || worker.counted().messages == 2).await;
    assert_eq!(reasons(&list(&world, &[]).await), ["illegal_order_id"]);
    // What nobody can understand comes back to where it was.
    assert_eq!(world.overdue(&["parked", "requeue", "--all"]).await.status.code(), Some(0));
    eventually("it is parked again", async || worker.counted().parked == 1).await;
    foreign.queue_holds("overdue.v1.parked", 1).await;
    let again = list(&world, &[]).await;
    assert_eq!((again.len(), &again[0]["body"]), (1, &Value::from("not an ID")));
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_sent_in_again_stays_parked() {
    let world = World::new().await;
    let foreign = park_three(&world).await;
    let nothing = lapin::types::FieldTable::default;
    let lane = "overdue.v1.delay.1s";
    foreign.channel.queue_unbind(lane.into(), "overdue.lanes".into(), "1s.payment".into(), nothing()).await.unwrap();
    let output = world.overdue(&["parked", "requeue", "--all"]).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(list(&world, &[]).await.len(), 3);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_this_version_does_not_know_is_not_sent_in_as_another() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let foreign = world.foreign().await;
    foreign.publish("overdue.delay", "1s.receipt", order.id.as_str().as_bytes(), BasicProperties::default()).await;
    foreign.publish("overdue.delay", "17m.payment", b"o-0", BasicProperties::default()).await;
    foreign.queue_holds("overdue.v1.parked", 2).await;
    let output = world.overdue(&["parked", "requeue", "--all"]).await;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(out, "1 message sent in again\n", "the other is not held up");
    assert!(error.contains("receipt") && error.contains("Deploy a version"), "{error}");
    assert_eq!(reasons(&list(&world, &[]).await), ["unknown_kind"]);
    foreign.queue_holds("overdue.v1.due.payment", 1).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_needs_a_yes() {
    let world = World::new().await;
    let foreign = park_three(&world).await;
    // Nobody is there to be asked.
    let output = world.command(&["parked", "drop", "--all"]).stdin(std::process::Stdio::null()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give --yes"));
    assert_eq!(list(&world, &[]).await.len(), 3);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let dropped = world.overdue(&["parked", "drop", "--reason", "unknown_order", "--older-than", "1s", "--yes"]).await;
    assert_eq!(String::from_utf8_lossy(&dropped.stdout), "1 message dropped\n");
    assert_eq!(reasons(&list(&world, &[]).await), ["illegal_order_id", "unroutable"]);
    // For a day it can be had back.
    assert_eq!(reasons(&list(&world, &["--dropped"]).await), ["unknown_order"]);
    assert_eq!(world.overdue(&["parked", "restore", "--reason", "unknown_order"]).await.status.code(), Some(0));
    assert_eq!(list(&world, &[]).await.len(), 3);
    foreign.queue_holds("overdue.v1.parked", 0).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_in_again_does_not_chase_what_comes_back() {
    const MESSAGES: u32 = 60;
    let world = World::new().await;
    let foreign = world.foreign().await;
    let worker = world.worker();
    for number in 0..MESSAGES {
        foreign.due_now(format!("not an ID {number}").as_bytes()).await;
    }
    foreign.queue_holds("overdue.v1.parked", MESSAGES).await;
    // Each takes some 80 ms, and comes back after a second: most of them come back while the command is at work.
    let slow = Proxy::to(&server(&world.amqp_url)).await;
    slow.delay(Duration::from_millis(20));
    let mut amqp_url: Url = world.amqp_url.parse().unwrap();
    amqp_url.set_port(Some(slow.port())).unwrap();
    let mut command = world.command(&["parked", "requeue", "--all"]);
    let ended =
        tokio::time::timeout(Duration::from_mins(2), command.env("OVERDUE_AMQP_URL", amqp_url.as_str()).output());
    let output = ended.await.expect("it comes to an end").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{MESSAGES} messages sent in again\n"), "{output:?}");
    foreign.queue_holds("overdue.v1.parked", MESSAGES).await;
    worker.stop().await;
    world.close().await;
}

/// A process with the role worker attends to the queue. What it keeps is all of the message, shown without harm, and none of it
/// is believed.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_message_is_kept_shown_escaped_and_not_believed() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let mut headers = lapin::types::FieldTable::default();
    for (name, value) in [
        ("x-overdue-reason", "not_closed"),
        ("x-overdue-detail", "\u{1b}[2Jall is well"),
        ("tenant\u{1b}[31m", "shop-7\u{202e}\u{7}"),
    ] {
        headers.insert(name.into(), lapin::types::AMQPValue::LongString(value.into()));
    }
    let properties = || {
        BasicProperties::default()
            .with_headers(headers.clone())
            .with_content_encoding("gzip".into())
            .with_type("order".into())
            .with_reply_to("answers".into())
            .with_message_id("m-1".into())
            .with_app_id("shop".into())
    };
    let process = world.start(&["run", "--only", "worker"]);
    foreign.publish("overdue.delay", "17m.payment", b"\x1b]0;x\x07", properties()).await;
    foreign.publish("overdue.due", "30m.payment", b"\x1b]0;x\x07", properties()).await;
    foreign.publish("overdue.due", "30m.payment", b"\x1b]0;x\x07", properties()).await;
    eventually("all are in the table", async || {
        world.number("select coalesce(sum(times), 0)::bigint from parked").await == 3
    })
    .await;
    let all = list(&world, &[]).await;
    assert_eq!(reasons(&all), ["illegal_order_id", "unroutable"], "the same message again only counts");
    let unroutable = all.iter().find(|message| message["reason"] == "unroutable").unwrap();
    assert_eq!(unroutable["properties"]["type"], "order");
    assert_eq!(unroutable["properties"]["app-id"], "shop");
    let illegal = all.iter().find(|message| message["reason"] == "illegal_order_id").unwrap();
    assert_eq!(illegal["times"], 2);
    assert_eq!(illegal["properties"]["content-encoding"], "gzip");
    for (name, value) in [("reply-to", "answers"), ("app-id", "shop"), ("message-id", "m-1")] {
        assert_eq!(illegal["headers"][format!("x-overdue-original-{name}")], value, "{illegal}");
    }
    for message in &all {
        let shown = world.overdue(&["parked", "show", message["id"].as_str().unwrap()]).await;
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n') && !shown.contains('\u{202e}'), "{shown:?}");
        assert!(shown.contains("shop-7") && !shown.contains("detail       all is well"), "{shown}");
    }
    let groups = String::from_utf8(world.overdue(&["parked", "groups"]).await.stdout).unwrap();
    assert!(groups.contains("unroutable") && groups.contains("topology declare"), "{groups}");
    process.terminate().await;
    world.close().await;
}

/// A table that takes nothing (a right is missing after an upgrade) is no fault of the messages: they wait in their queue.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_table_takes_nothing_messages_stay_in_their_queue() {
    let world = World::new().await;
    let foreign = park_three(&world).await;
    world
        .execute(
            "create function full_up() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '42501'; end $$;
             create trigger full_up before insert on parked for each row execute function full_up()",
        )
        .await;
    let process = world.start(&["run", "--only", "worker"]);
    process.says("parked messages cannot be stored").await;
    let listed = world.overdue(&["parked", "list"]).await;
    assert!(String::from_utf8_lossy(&listed.stderr).contains("is left out"), "{listed:?}");
    foreign.queue_holds("overdue.v1.parked", 3).await;
    foreign.queue_holds("overdue.v1.unreadable", 0).await;
    world.execute("drop trigger full_up on parked").await;
    eventually("all are taken in", async || world.number("select count(*) from parked").await == 3).await;
    foreign.queue_holds("overdue.v1.unreadable", 0).await;
    process.terminate().await;
    world.close().await;
}

/// What an order service writes into the outbox never fails its transaction, and harms no other row.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_outbox_that_cannot_be_sent_are_parked_and_the_others_go_out() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    world
        .execute(
            "insert into outbox (order_id, due_at) values ('a b', now()), (repeat('9', 9000), now()), ('', 'infinity'), ('x', '-infinity'), ('y', '0001-01-01');
             insert into outbox (order_id, due_at, kind) values ('z', now(), 'receipt');
             insert into outbox (order_id, due_at, traceparent) values ('t-1', now(), '01-0AF7651916CD43DD8448EB211C80319C-00F067AA0BA902B7-01'), ('t-2', now(), 'nonsense');
             insert into outbox (order_id, due_at, event, event_id, data) values ('e', now(), 'order.closed', 'e-1', json_build_object('reason', repeat('x', 140000000)));
             insert into outbox (order_id, due_at, event, event_id, data) values ('e', 'infinity', 'order.closed', 'e-2', '{}'), ('e e', now(), 'order.closed', 'e-3', '{}')",
        )
        .await;
    let relay = world.relay();
    let order = world.order("tea", Duration::from_secs(1)).await;
    let worker = world.worker();
    world.becomes(&order.id, "closed").await;
    eventually("nothing is left", async || world.number("select count(*) from outbox").await == 0).await;
    let parked = |reason: &str| format!("select count(*) from parked where reason = '{reason}'");
    assert_eq!(world.number(&parked("illegal_order_id")).await, 4);
    assert_eq!(world.number(&parked("unknown_kind")).await, 1);
    assert_eq!(world.number(&parked("event_too_large")).await, 1);
    worker.stop().await;
    relay.stop().await;
    world.close().await;
}

/// One message of as many unknown orders as it may name costs one parked message, not one for each.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_unknown_orders_is_parked_as_one() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let unknown = UnknownOrders { attempts_max: 1, ..UnknownOrders::default() };
    let worker = world.worker_with(PipelineSettings { unknown, ..PipelineSettings::default() });
    let entries: Vec<String> = (0..256).map(|number| format!(r#"{{"id":"nobody-{number}"}}"#)).collect();
    foreign.due_now(format!(r#"{{"v":1,"orders":[{}]}}"#, entries.join(",")).as_bytes()).await;
    foreign.queue_holds("overdue.v1.parked", 1).await;
    let parked = list(&world, &["--order", "nobody-200"]).await;
    assert_eq!(parked[0]["orders"].as_array().unwrap().len(), 256);
    worker.stop().await;
    world.close().await;
}

fn server(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

fn parking(text: &str) -> Parking {
    Parking {
        reason: "not_json".to_owned(),
        detail: None,
        orders: vec![text.to_owned()],
        routing_key: "now.payment".to_owned(),
        properties: serde_json::Map::new(),
        headers: serde_json::Map::new(),
        body: text.as_bytes().to_vec(),
        attempts: 0,
        history: Vec::new(),
        at: time::OffsetDateTime::now_utc(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_operator_sends_in_again_no_other_sends_or_drops_meanwhile() {
    let world = World::bare(&[]).await;
    let table = ParkedTable::new(world.client(4, Purpose::Settle));
    table.add(&[parking("a"), parking("b"), parking("c")]).await.unwrap();
    let all = ParkedFilter::default();
    let range = (0, i64::MAX);
    let (mut dropping, mut parking_again) = (None, None);
    let sent = table.send_again(&all, range, 2, "alice", async |rows| {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        // The other one gets what is left, and nothing twice.
        let other = table.send_again(&all, range, 100, "bob", async |rows| rows.iter().map(|row| row.id).collect());
        assert_eq!(other.await.unwrap().unwrap().seen, 1);
        // To drop them, and to park one of them once more, has to wait.
        let (others, these) = (ParkedTable::new(world.client(1, Purpose::Shop)), ids.clone());
        let states = (ParkedState::Held, ParkedState::Dropped);
        dropping = Some(tokio::spawn(async move { others.change(&these, states, "carol").await }));
        let attendant = table.clone();
        parking_again = Some(tokio::spawn(async move { attendant.add(&[parking("a")]).await }));
        eventually("both wait", async || world.waiting_for_locks().await == 2).await;
        // The broker takes one of them.
        vec![ids[0]]
    });
    assert_eq!(sent.await.unwrap().unwrap().seen, 2);
    assert_eq!(dropping.unwrap().await.unwrap().unwrap(), 1, "the one that was not sent");
    parking_again.unwrap().await.unwrap().unwrap();
    let of = async |what: &str| world.number(&format!("select count(*) from parked where {what}")).await;
    assert_eq!(of("state = 'requeued' and changed_by = 'alice' and body = 'a'").await, 1);
    assert_eq!(of("state = 'requeued' and changed_by = 'bob' and body = 'c'").await, 1);
    assert_eq!(of("state = 'dropped' and changed_by = 'carol' and body = 'b'").await, 1);
    assert_eq!(of("state = 'held' and body = 'a' and times = 1").await, 1, "it came again");
    assert_eq!(table.send_again(&all, (i64::MAX - 1, i64::MAX), 1, "x", async |_| Vec::new()).await.unwrap(), None);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_is_sent_in_again_in_portions() {
    let world = World::bare(&[]).await;
    let table = ParkedTable::new(world.client(2, Purpose::Settle));
    let large = |n: u8| Parking { body: vec![n; 5 * 1024 * 1024], ..parking("large") };
    table.add(&[large(1), large(2), large(3)]).await.unwrap();
    let (mut after, mut portions) = (0, Vec::new());
    let all = ParkedFilter::default();
    while let Some(sent) = table
        .send_again(&all, (after, i64::MAX), 100, "alice", async |rows| {
            portions.push(rows.len());
            rows.iter().map(|row| row.id).collect()
        })
        .await
        .unwrap()
    {
        after = sent.last;
    }
    assert_eq!(portions, [1, 1, 1], "never two of them, which are more than 8 MiB");
    assert_eq!(world.number("select count(*) from parked where state = 'requeued'").await, 3);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_seen_a_message_has_seen_all_with_lower_numbers() {
    let world = World::bare(&[]).await;
    let table = ParkedTable::new(world.client(2, Purpose::Settle));
    let mut first = world.connection().await;
    let insert = "begin; insert into parked (reason, routing_key, body, fingerprint, first_at, last_at)
                  values ('not_json', '', 'first', 'x', now(), now())";
    sqlx::raw_sql(insert).execute(&mut *first).await.unwrap();
    let other = table.clone();
    let second = tokio::spawn(async move { other.add(&[parking("second")]).await });
    eventually("the second waits for its turn", async || world.waiting_for_locks().await == 1).await;
    assert!(table.groups_up_to(10).await.unwrap().is_empty(), "nobody sees one of them before the other");
    sqlx::raw_sql("commit").execute(&mut *first).await.unwrap();
    drop(first);
    second.await.unwrap().unwrap();
    let group = table.groups_up_to(10).await.unwrap().remove(0);
    assert_eq!(world.number("select max(id) from parked where body = 'second'").await, group.last_id);
    world.close().await;
}
