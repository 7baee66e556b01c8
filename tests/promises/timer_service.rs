//! Timers for services in any language: over HTTP, over RabbitMQ, from a shell; swept, shown, and deleted in the end.

use std::time::Duration;

use book::Timers;
use database::Purpose;
use lapin::BasicProperties;
use order::TimerState;
use outbox::{Timer, TimerDue, arm_timer, timer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{World, eventually};
use tokio_util::sync::CancellationToken;
use worker::{Gateways, OutcomeKind, SharedTimers, Sweep, SweepSettings};

use crate::api::{Server, problem};
use crate::events::{assert_message, document};

async fn look(world: &World, name: &str) -> Option<Timer> {
    timer(&mut *world.connection().await, &name.parse().unwrap()).await.unwrap()
}

async fn becomes(world: &World, name: &str, state: TimerState) {
    eventually(&format!("{name} is {state}"), async || {
        look(world, name).await.is_some_and(|timer| timer.state == state)
    })
    .await;
}

const AT: &str = "2100-01-01T00:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn timers_are_armed_moved_fired_and_cancelled_over_http() {
    let world = World::new().await;
    let server = Server::start(&world, &[]).await;
    let put = async |path: &str, headers: &[(&str, &str)], body: Value| {
        server.send(Method::PUT, path, headers, Some(body)).await
    };
    let path = "/timers/receipt/842317";
    let (status, view) = put(path, &[], json!({ "due_at": AT, "data": { "to": ["a", 1.0] } })).await;
    assert_eq!((status, &view["state"], &view["revision"]), (StatusCode::CREATED, &json!("armed"), &json!(1)));
    assert_eq!((&view["due_at"], &view["data"]), (&json!(AT), &json!({ "to": ["a", 1.0] })));
    let (status, again) = put(path, &[], json!({ "due_at": AT, "data": { "to": ["a", 1.0] } })).await;
    assert_eq!((status, again), (StatusCode::OK, view));
    // Only what the client has seen.
    let there = put(path, &[("If-None-Match", "*")], json!({ "after_s": 1 })).await;
    problem(&there, 412, "precondition-failed");
    let other = put(path, &[("If-Match", "\"7\"")], json!({ "after_s": 1 })).await;
    problem(&other, 412, "precondition-failed");
    let (status, moved) = put(path, &[("If-Match", "\"1\"")], json!({ "after_s": 3600 })).await;
    assert_eq!((status, &moved["revision"], &moved["data"]), (StatusCode::OK, &json!(2), &Value::Null));
    problem(
        &put("/timers/receipt/none", &[("If-Match", "*")], json!({ "after_s": 1 })).await,
        412,
        "precondition-failed",
    );
    assert_eq!(server.get(path).await.1, moved);
    assert_eq!(server.send(Method::GET, path, &[("If-None-Match", "\"2\"")], None).await.0, StatusCode::NOT_MODIFIED);

    let (status, fired) = server.send(Method::POST, &format!("{path}/fire"), &[], None).await;
    assert_eq!((status, &fired["state"]), (StatusCode::OK, &json!("fired")));
    assert_eq!(server.send(Method::GET, path, &[("If-None-Match", "\"2\"")], None).await.0, StatusCode::OK);
    let again = server.send(Method::POST, &format!("{path}/fire"), &[], None).await;
    assert_eq!(again, (StatusCode::OK, fired), "it has fired");
    assert_eq!(world.number("select sum(events) from outbox where event is not null").await, 1);
    problem(&server.send(Method::DELETE, path, &[], None).await, 409, "timer-not-armed");

    assert_eq!(put("/timers/sms/842317", &[], json!({ "due_at": AT })).await.0, StatusCode::CREATED);
    problem(
        &server.send(Method::DELETE, "/timers/sms/842317", &[("If-Match", "\"9\"")], None).await,
        412,
        "precondition-failed",
    );
    for _ in 0..2 {
        let (status, cancelled) =
            server.send(Method::DELETE, "/timers/sms/842317", &[("If-Match", "\"1\"")], None).await;
        assert_eq!((status, &cancelled["state"]), (StatusCode::OK, &json!("cancelled")));
    }
    problem(&server.send(Method::POST, "/timers/sms/842317/fire", &[], None).await, 409, "timer-not-armed");
    let list = server.get("/timers?subject=842317").await.1;
    let kinds: Vec<&Value> = list["timers"].as_array().unwrap().iter().map(|timer| &timer["kind"]).collect();
    assert_eq!(kinds, ["receipt", "sms"]);
    let fired = server.get("/timers?subject=842317&state=fired").await.1;
    assert_eq!(fired["timers"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/timers?subject=nobody&kind=sms").await.1, json!({ "timers": [] }));
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_timer_is_refused_with_what_to_do() {
    let world = World::new().await;
    let server = Server::start(&world, &[("OVERDUE_TIMER_KINDS", "receipt,sms")]).await;
    let put = async |path: &str, body: Value| server.send(Method::PUT, path, &[], Some(body)).await;
    let body = || json!({ "after_s": 60 });
    for (path, name) in [
        ("/timers/Receipt/1", "illegal-timer"),
        ("/timers/payment/1", "illegal-timer"),
        ("/timers/receipt/a%20b", "illegal-timer"),
        ("/timers/recipt/1", "unexpected-timer"),
    ] {
        problem(&put(path, body()).await, 422, name);
    }
    for (wanted, status, name) in [
        (json!({}), 422, "invalid-request"),
        (json!({ "due_at": AT, "after_s": 1 }), 422, "invalid-request"),
        (json!({ "due_at": "tomorrow" }), 422, "invalid-request"),
        (json!({ "due_at": "9999-12-31T23:59:59Z" }), 422, "invalid-request"),
        (json!({ "due_at": "9999-12-31T23:59:59-23:59" }), 422, "invalid-request"),
        (json!({ "due_at": "1999-12-31T23:59:59Z" }), 422, "invalid-request"),
        (json!({ "after_s": -1 }), 422, "invalid-request"),
        (json!({ "after_s": 1e300 }), 422, "invalid-request"),
        (json!({ "after_s": 1, "data": "x".repeat(8191) }), 422, "invalid-request"),
        (json!({ "after_s": "1" }), 400, "malformed-body"),
        (json!({ "after": 1 }), 400, "malformed-body"),
    ] {
        problem(&put("/timers/receipt/1", wanted).await, status, name);
    }
    problem(&server.get("/timers/receipt/1").await, 404, "unknown-timer");
    problem(&server.send(Method::DELETE, "/timers/receipt/1", &[], None).await, 404, "unknown-timer");
    problem(&server.send(Method::POST, "/timers/receipt/1/fire", &[], None).await, 404, "unknown-timer");
    for query in ["/timers", "/timers?subject=1&state=gone", "/timers?subject=1&limit=9"] {
        problem(&server.get(query).await, 422, "invalid-request");
    }
    assert_eq!(world.number("select count(*) from timers").await, 0);
    // In the past: at once.
    assert_eq!(put("/timers/receipt/2", json!({ "due_at": "2000-01-01T00:00:00Z" })).await.0, StatusCode::CREATED);
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_are_armed_and_cancelled_from_a_shell() {
    let world = World::new().await;
    let run = async |arguments: &[&str], code: i32| {
        let output = world.overdue(&[&["timer"], arguments].concat()).await;
        let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let text = said(output.stdout) + &said(output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    };
    run(&["arm", "receipt", "842317", "--due-at", AT, "--data", r#"{"a":1}"#], 0).await;
    run(&["arm", "sms", "842317", "--after", "10m"], 0).await;
    let shown = run(&["show", "receipt", "842317"], 0).await;
    assert!(shown.contains("armed") && shown.contains(r#"{"a":1}"#), "{shown}");
    let list: Value = serde_json::from_str(&run(&["list", "--subject", "842317", "--json"], 0).await).unwrap();
    let kinds: Vec<&Value> = list.as_array().unwrap().iter().map(|timer| &timer["kind"]).collect();
    assert_eq!(kinds, ["sms", "receipt"], "those that are due first first");
    assert!(run(&["list", "--limit", "1"], 0).await.contains("more than 1"));
    run(&["cancel", "sms", "842317"], 0).await;
    assert!(run(&["cancel", "sms", "1"], 1).await.contains("there is no timer sms:1"));
    assert!(!run(&["list"], 0).await.contains("sms"), "those that are armed");
    assert!(run(&["list", "--subject", "842317"], 0).await.contains("sms"), "all of a subject");
    for (arguments, words) in [
        (&["arm", "Receipt", "1", "--after", "1s"][..], "a letter first"),
        (&["arm", "receipt", "a b", "--after", "1s"], "not allowed"),
        (&["arm", "receipt", "1"], "--after"),
        (&["arm", "receipt", "1", "--due-at", "9999-01-01T00:00:00Z"], "cannot be due at"),
        (&["list", "--subject", "a b"], "not allowed"),
        (&["arm", "receipt", "1", "--after", "1s", "--data", "{"], "not JSON"),
    ] {
        assert!(run(arguments, 2).await.contains(words), "{arguments:?}");
    }
    let worker = [world.relay(), world.worker()];
    run(&["arm", "sms", "842317", "--after", "0s"], 0).await;
    becomes(&world, "sms:842317", TimerState::Fired).await;
    assert!(run(&["cancel", "sms", "842317"], 1).await.contains("has fired already at"));
    for roles in worker {
        roles.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_arm_and_cancel_and_bad_ones_are_parked_alone() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let mut command = world.command(&["run", "--only", "worker"]);
    command.env("OVERDUE_TIMER_KINDS", "receipt,sms");
    let worker = world.start_command(command);
    let send = async |body: Value| {
        // But for the first, which has bad ones.
        if body["cancel"][1].is_null() {
            assert_message(&document(), "TimerCommands", "payload", &body);
        }
        let body = body.to_string();
        foreign.publish("overdue.commands", "", body.as_bytes(), BasicProperties::default()).await;
    };
    send(json!({ "v": 1, "arm": [
        { "kind": "receipt", "subject": "1", "due": AT, "data": { "n": 2 }, "version": 2 },
        { "kind": "recipt", "subject": "1", "due": AT },
        { "kind": "receipt", "subject": "2", "due": "soon" },
        { "kind": "sms", "subject": "1", "due": AT },
    ], "cancel": [{ "kind": "receipt", "subject": "3", "version": 9 }, { "kind": "receipt" }] }))
    .await;
    becomes(&world, "receipt:3", TimerState::Cancelled).await;
    // What overtook them counts.
    send(json!({ "v": 1, "arm": [
        { "kind": "receipt", "subject": "1", "due": "2200-01-01T00:00:00Z", "version": 1 },
        { "kind": "receipt", "subject": "3", "due": AT, "version": 8 },
    ] }))
    .await;
    send(json!({ "v": 1, "cancel": [{ "kind": "sms", "subject": "1" }] })).await;
    becomes(&world, "sms:1", TimerState::Cancelled).await;
    let armed = look(&world, "receipt:1").await.unwrap();
    assert_eq!((armed.state, armed.revision, armed.data.as_deref()), (TimerState::Armed, 1, Some(r#"{"n":2}"#)));
    assert_eq!(look(&world, "receipt:3").await.unwrap().state, TimerState::Cancelled);
    foreign.publish("overdue.commands", "x", b"nonsense", BasicProperties::default()).await;
    eventually("the bad ones are parked", async || world.number("select count(*) from parked").await == 4).await;
    let reasons = "select string_agg(reason, ' ' order by reason) from parked";
    let reasons: String = sqlx::query_scalar(reasons).fetch_one(&world.pool).await.unwrap();
    assert_eq!(reasons, "illegal_command illegal_command not_json unexpected_timer");

    // Sent in again they are commands still, and as bad.
    let requeued = world.overdue(&["parked", "requeue", "--all"]).await;
    assert!(requeued.status.success(), "{requeued:?}");
    let held = "select count(*) from parked where state = 'held'";
    eventually("they are parked again", async || world.number(held).await == 4).await;
    worker.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_a_timer_that_is_held_holds_up_no_other() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let armed = TimerDue::After(Duration::from_secs(3600));
    let mut connection = world.connection().await;
    arm_timer(&mut connection, &"held:1".parse().unwrap(), armed, None).await.unwrap();
    let mut transaction = sqlx::Connection::begin(&mut *connection).await.unwrap();
    sqlx::query("select from timers for update").execute(&mut *transaction).await.unwrap();
    let worker = world.start(&["run", "--only", "worker"]);
    let both = json!({ "v": 1, "cancel": [{ "kind": "held", "subject": "1" }], "arm": [{ "kind": "free", "subject": "1", "due": AT }] });
    foreign.publish("overdue.commands", "", both.to_string().as_bytes(), BasicProperties::default()).await;
    becomes(&world, "free:1", TimerState::Armed).await;
    let free = json!({ "v": 1, "cancel": [{ "kind": "free", "subject": "1" }] });
    foreign.publish("overdue.commands", "", free.to_string().as_bytes(), BasicProperties::default()).await;
    becomes(&world, "free:1", TimerState::Cancelled).await;
    assert_eq!(look(&world, "held:1").await.unwrap().state, TimerState::Armed);
    transaction.rollback().await.unwrap();
    becomes(&world, "held:1", TimerState::Cancelled).await;
    assert_eq!(world.number("select count(*) from parked").await, 0);
    worker.kill().await;
    drop(connection);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_no_queue_takes_and_commands_that_all_fail_alike_are_not_lost() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    let (queue, nothing) = ("overdue.v1.commands", lapin::types::FieldTable::default());
    foreign.channel.queue_unbind(queue.into(), "overdue.commands".into(), "".into(), nothing).await.unwrap();
    let arm = |subject: &str| json!({ "v": 1, "arm": [{ "kind": "sms", "subject": subject, "due": AT }] }).to_string();
    foreign.publish("overdue.commands", "", arm("1").as_bytes(), BasicProperties::default()).await;
    let worker = world.start(&["run", "--only", "worker"]);
    let held = "select count(*) from parked where state = 'held' and reason = 'unroutable'";
    eventually("it is parked", async || world.number(held).await == 1).await;
    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    assert!(world.overdue(&["parked", "requeue", "--all"]).await.status.success());
    becomes(&world, "sms:1", TimerState::Armed).await;

    // A rule that is wrong for all parks none.
    world.execute("alter table timers add constraint wrong check (subject not like 'x%') not valid").await;
    for number in 0..20 {
        foreign
            .publish("overdue.commands", "", arm(&format!("x-{number}")).as_bytes(), BasicProperties::default())
            .await;
    }
    worker.says("all fail alike").await;
    assert_eq!(world.number("select count(*) from parked where state = 'held'").await, 0);
    world.execute("alter table timers drop constraint wrong").await;
    eventually("all are armed", async || world.number("select count(*) from timers").await == 21).await;
    worker.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_fires_what_no_message_brings_and_deletes_what_ended_long_ago() {
    let world = World::new().await;
    // More of one instant than a page holds, and no message of any.
    world
        .execute(
            "insert into timers (kind, subject, due_at)
             select 'sms', 's-' || n, case when n <= 250 then now() - interval '1 hour' else now() - n * interval '1 s' end
             from generate_series(1, 400) n;
             insert into timers (kind, subject, due_at) values ('sms', 'later', now() + interval '1 hour');
             insert into timers (kind, subject, due_at, state, changed_at, fired_at)
             select 'old', state || n, now() - interval '2 days', state, now() - interval '1 day', case state when 'fired' then now() end
             from generate_series(1, 1500) n, (values ('fired'), ('cancelled')) s (state);
             truncate outbox",
        )
        .await;
    let gateways = Gateways::none();
    let (client, shutdown) = (world.client(2, Purpose::Settle), CancellationToken::new());
    let timers = SharedTimers::new(Timers::new(client.clone()), None, gateways.metrics(), shutdown.clone());
    let settings = SweepSettings {
        every: Duration::from_millis(50),
        grace: Duration::ZERO,
        page_orders: 100,
        keep_timers: Duration::from_hours(1),
    };
    let book = worker::SharedBook::new(world.book());
    let sweep = tokio::spawn(Sweep::new(book, timers, client, &gateways, settings, shutdown.clone()).run());
    let left = "select count(*) from timers where state = 'armed'";
    eventually("all are fired but one", async || world.number(left).await == 1).await;
    eventually("the old are deleted", async || world.number("select count(*) from timers").await == 401).await;
    let metrics = gateways.metrics();
    eventually("they are counted", async || metrics.timers_rescued.get() == 400).await;
    assert_eq!((metrics.timers(OutcomeKind::Fired), metrics.sweep_stuck_timers.get()), (400, 0));
    let different = "select count(distinct e->>'id') from outbox, json_array_elements(data) e";
    assert_eq!((world.number("select sum(events) from outbox").await, world.number(different).await), (400, 400));
    shutdown.cancel();
    sweep.await.unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_timers_of_one_instant_fire_once_each() {
    let world = World::new().await;
    let all = "select count(*) from (select overdue_arm('flash', 's-' || n, now() + interval '1 second')
               from generate_series(1, 100000) n) armed";
    let roles = [world.relay(), world.worker()];
    assert_eq!(world.number(all).await, 100_000);
    let fired = "select count(*) from timers where state = 'fired'";
    eventually("all have fired", async || world.number(fired).await == 100_000).await;
    eventually("all is sent", async || world.number("select count(*) from outbox").await == 0).await;
    eventually("each counts once", async || roles[1].timers(OutcomeKind::Fired) == 100_000).await;
    assert_eq!(world.number("select count(*) from timers where fired_at < due_at").await, 0);
    assert_eq!(world.number("select count(*) from parked").await, 0);
    for roles in roles {
        roles.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_tells_of_its_timers_and_the_books_of_those_that_are_late() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(1800)).await;
    let server = Server::start(&world, &[]).await;
    let remind = json!({ "after_s": 60, "data": null });
    server.send(Method::PUT, &format!("/timers/remind/{}", order.id), &[], Some(remind)).await;
    server.send(Method::POST, &format!("/timers/remind/{}/fire", order.id), &[], None).await;
    server.send(Method::PUT, &format!("/timers/sms/{}", order.id), &[], Some(json!({ "due_at": AT }))).await;
    let (_, timeline) = server.get(&format!("/orders/{}/timeline", order.id)).await;
    let told: Vec<(&str, bool)> = timeline["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["what"].as_str().unwrap(), entry["detail"].as_str().unwrap().contains(AT)))
        .collect();
    assert_eq!(told, [("created", false), ("timer fired", false), ("timer armed", true)]);
    world.audit().await;
    world
        .execute(
            "insert into timers (kind, subject, due_at, changed_at) values ('late', '1', now() - interval '1 day', now() - interval '1 day');
             insert into timers (kind, subject, due_at, state, fired_at) values ('early', '1', now() + interval '1 day', 'fired', now())",
        )
        .await;
    let audit = world.look_at_the_books().await;
    let broken: Vec<(&str, &str)> = audit
        .checks
        .iter()
        .filter(|check| check.violations > 0)
        .map(|check| (check.name, check.examples[0].as_str()))
        .collect();
    assert_eq!(broken, [("overdue_timers", "late:1"), ("timers_on_time", "early:1")]);
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_timer_is_sent_in_again_or_dropped_once_it_has_fired() {
    let world = World::new().await;
    let due = TimerDue::After(Duration::ZERO);
    for name in ["recipt:1", "recipt:2"] {
        arm_timer(&mut *world.connection().await, &name.parse().unwrap(), due, None).await.unwrap();
    }
    let relay = world.relay();
    let mut command = world.command(&["run", "--only", "worker"]);
    command.env("OVERDUE_TIMER_KINDS", "receipt");
    let worker = world.start_command(command);
    let held = "select count(*) from parked where state = 'held' and reason = 'unexpected_timer'";
    eventually("they are parked", async || world.number(held).await >= 1).await;
    worker.kill().await;
    assert_eq!(look(&world, "recipt:1").await.unwrap().state, TimerState::Armed);
    // The kind was right after all.
    let worker = world.start(&["run", "--only", "worker"]);
    let requeued = world.overdue(&["parked", "requeue", "--all"]).await;
    assert!(requeued.status.success(), "{requeued:?}");
    becomes(&world, "recipt:1", TimerState::Fired).await;
    becomes(&world, "recipt:2", TimerState::Fired).await;
    // One that was parked and has fired in another way needs no person.
    world
        .execute(
            "insert into parked (reason, orders, routing_key, body, fingerprint, first_at, last_at)
             values ('refused_by_database', '{recipt:1}', '1s.timer', 'recipt:1', 'a', now() - interval '1 hour', now() - interval '1 hour'),
                    ('unknown_timer', '{recipt:3}', '1s.timer', 'recipt:3', 'b', now(), now())",
        )
        .await;
    let dropped = "select count(*) from parked where state = 'dropped' and changed_by = 'overdue'";
    eventually("it is dropped", async || world.number(dropped).await == 1).await;
    assert_eq!(world.number("select count(*) from parked where state = 'held'").await, 1);
    worker.kill().await;
    relay.stop().await;
    world.close().await;
}
