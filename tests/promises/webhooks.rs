//! Webhooks: events that are signed, delivered, tried again, given up; one endpoint's trouble is no other's.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::{ENDPOINT_KEY, EndpointFile, Process, Receiver, Reply, World, endpoint, eventually};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const OLD_KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Declares the queues of these endpoints, and starts the role.
async fn start(world: &World, file: &EndpointFile, more: &[&str]) -> Process {
    let declared = world.overdue(&["topology", "declare", "--webhooks", file.path()]).await;
    assert!(declared.status.success(), "{declared:?}");
    let arguments = ["run", "--only", "webhooks", "--webhooks", file.path(), "--probe-every", "300ms"];
    let process = world.start(&[&arguments[..], more].concat());
    process.says("running").await;
    process
}

/// Announces events as the relay does.
async fn announce(world: &World, ids: impl Iterator<Item = String>) {
    let foreign = world.foreign().await;
    for id in ids {
        let event = json!({ "specversion": "1.0", "id": id, "type": "order.closed", "source": "/overdue", "data": {} });
        let properties = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        foreign.publish("overdue.events", "order.closed", event.to_string().as_bytes(), properties).await;
    }
}

fn one(id: &str) -> impl Iterator<Item = String> {
    std::iter::once(id.to_owned())
}

async fn stop(process: Process) {
    process.terminate().await;
    let mut process = process;
    assert!(process.ended().await.success(), "{}", process.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_arrives_at_its_endpoint_signed_and_once() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "")]);
    let process = start(&world, &file, &[]).await;
    let roles = [world.relay(), world.worker()];
    world.execute("select overdue_arm('sms', '842317', now(), '{\"to\":\"+31 6\"}')").await;
    eventually("it has arrived", async || !receiver.received().is_empty()).await;
    let received = receiver.received().remove(0);
    assert_eq!(
        (&received.event()["type"], &received.event()["data"]["data"]),
        (&json!("timer.sms"), &json!({ "to": "+31 6" }))
    );
    let id = received.header("webhook-id");
    assert!(id.starts_with("evt_") && !id.contains('.'), "{id}");
    assert_eq!(received.header("content-type"), "application/cloudevents+json");
    let foreign = world.foreign().await;
    foreign.queue_holds("overdue.v1.webhook.shop", 0).await;
    for roles in roles {
        roles.stop().await;
    }
    stop(process).await;
    assert_eq!(receiver.received().len(), 1);
    world.close().await;
}

/// What the library of another language says of a delivery: `ok`, or why not.
async fn judged(program: &str, arguments: &[&str], delivery: &Value) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(delivery.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const PYTHON: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    Webhook(given["key"]).verify(given["body"], given["headers"])
    print("ok")
except WebhookVerificationError as error:
    print("refused:", error)
"#;

const NODE: &str = r#"
const { Webhook } = require("standardwebhooks");
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
try { new Webhook(given.key).verify(given.body, given.headers); console.log("ok"); }
catch (error) { console.log("refused:", error.message); }
"#;

/// By the asymmetric scheme, with what Node brings along.
const NODE_PUBLIC: &str = r#"
const crypto = require("crypto");
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(given.key, "base64")]);
const key = crypto.createPublicKey({ key: der, format: "der", type: "spki" });
const content = Buffer.from(`${given.headers["webhook-id"]}.${given.headers["webhook-timestamp"]}.${given.body}`);
const signatures = given.headers["webhook-signature"].split(" ").filter(one => one.startsWith("v1a,"));
console.log(signatures.some(one => crypto.verify(null, content, key, Buffer.from(one.slice(4), "base64"))) ? "ok" : "refused");
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_is_verified_by_libraries_of_others_and_what_is_not_is_refused() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    // The private half of the key whose public half is below; RFC 8032, test 1.
    let seed = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    let public = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    // While a key is being changed both sign.
    let text = endpoint("shop", &receiver.url(), "")
        .replace(&format!("[\"{ENDPOINT_KEY}\"]"), &format!("[\"{ENDPOINT_KEY}\", \"{OLD_KEY}\", \"{seed}\"]"));
    let file = EndpointFile::with(&world, &[text]);
    let process = start(&world, &file, &[]).await;
    announce(&world, one("payment-timeout:A.1:2026")).await;
    eventually("it has arrived", async || !receiver.received().is_empty()).await;
    let received = receiver.received().remove(0);
    let header = |name: &str| received.header(name).to_owned();
    let headers = json!({
        "webhook-id": header("webhook-id"), "webhook-timestamp": header("webhook-timestamp"),
        "webhook-signature": header("webhook-signature"),
    });
    let body = String::from_utf8(received.body.clone()).unwrap();
    let delivery = json!({ "key": ENDPOINT_KEY, "body": body, "headers": headers });
    let with = |path: &str, value: Value| {
        let mut changed = delivery.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
    for (program, arguments) in [("python3", ["-c", PYTHON]), ("node", ["-e", NODE])] {
        let judged = async |delivery: &Value| judged(program, &arguments, delivery).await;
        assert_eq!(judged(&delivery).await, "ok", "{program}");
        assert_eq!(judged(&with("/key", json!(OLD_KEY))).await, "ok", "{program}: the key before");
        for (what, changed) in [
            ("another key", with("/key", json!("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))),
            ("altered", with("/body", json!(body.replace("closed", "paid")))),
            ("another event's", with("/headers/webhook-id", json!("evt_0"))),
            ("stale", with("/headers/webhook-timestamp", json!((timestamp - 3600).to_string()))),
            ("forged", with("/headers/webhook-signature", json!("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="))),
        ] {
            let said = judged(&changed).await;
            assert!(said.starts_with("refused"), "{program} takes what is {what}: {said}");
        }
    }
    let of_public = async |delivery: &Value| judged("node", &["-e", NODE_PUBLIC], delivery).await;
    assert_eq!(of_public(&with("/key", json!(public))).await, "ok");
    let mut altered = with("/key", json!(public));
    altered["body"] = json!(body.replace("closed", "paid"));
    assert_eq!(of_public(&altered).await, "refused");
    stop(process).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_comes_again_by_a_lane_with_the_same_id_and_what_is_refused_is_parked() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "")]);
    let process = start(&world, &file, &[]).await;
    let foreign = world.foreign().await;
    let of = |id: &str| -> Vec<String> {
        let all = receiver.received().into_iter().filter(|received| received.event()["id"] == id);
        all.map(|received| received.header("webhook-id").to_owned()).collect()
    };
    let elsewhere = Receiver::start().await;
    let location = vec![("location", elsewhere.url())];
    for (id, reply) in [("redirected", Reply::Status(302, location, Duration::ZERO)), ("dropped", Reply::HangsUp)] {
        receiver.answers(move |_| reply.clone());
        announce(&world, one(id)).await;
        // For about five seconds.
        eventually("it waits in a lane", async || waiting(&world).await == 1).await;
        receiver.answers(|_| Reply::status(204));
        eventually("it comes again", async || of(id).len() == 2).await;
        assert_eq!(of(id)[0], of(id)[1], "the same ID each time");
        foreign.queue_holds("overdue.v1.webhook.shop", 0).await;
    }
    assert_eq!(elsewhere.counts().0, 0, "no redirect is followed");
    receiver.answers(|received| match received.event()["id"].as_str() {
        Some("refused") => Reply::status(422),
        Some("asks-for-time") => Reply::Status(429, vec![("retry-after", "3600".to_owned())], Duration::ZERO),
        _ => Reply::status(204),
    });
    announce(&world, ["refused", "fine"].into_iter().map(str::to_owned)).await;
    let parked = foreign.parked(1).await.remove(0);
    assert_eq!(
        (parked.reason(), parked.header("x-overdue-endpoint").as_deref()),
        ("webhook_refused".to_owned(), Some("shop"))
    );
    assert_eq!(parked.header("x-overdue-event").as_deref(), Some("order.closed"));
    assert_eq!(parked.routing_key, "1s.webhook.shop");
    announce(&world, one("asks-for-time")).await;
    // An hour: no lane is longer than that by much, and none of seconds.
    eventually("it waits for as long as was asked for", async || {
        let (count, ttl_ms) = longest(&world).await;
        count == 1 && ttl_ms >= 3_600_000
    })
    .await;
    stop(process).await;
    world.close().await;
}

/// How many messages wait in lanes.
async fn waiting(world: &World) -> u64 {
    queues(world).await.iter().map(|(_, messages)| messages).sum()
}

/// How many messages wait in the longest lane with any, and how long that is.
async fn longest(world: &World) -> (u64, u64) {
    queues(world)
        .await
        .into_iter()
        .filter(|(_, messages)| *messages > 0)
        .map(|(ttl_ms, messages)| (messages, ttl_ms))
        .max_by_key(|(_, ttl)| *ttl)
        .unwrap_or_default()
}

async fn queues(world: &World) -> Vec<(u64, u64)> {
    let foreign = world.foreign().await;
    let mut found = Vec::new();
    for lane in world.lanes.ours() {
        let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let name = format!("overdue.v1.delay.{lane}");
        let queue = foreign
            .channel
            .queue_declare(name.as_str().into(), options, lapin::types::FieldTable::default())
            .await
            .unwrap();
        found.push((lane.ttl_ms(), u64::from(queue.message_count())));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_away_is_given_up_for_a_while_and_spends_no_attempts() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "concurrency = 1")]);
    receiver.answers(|_| Reply::status(503));
    let process = start(&world, &file, &["--listen", "127.0.0.1:0"]).await;
    announce(&world, (0..200).map(|number| format!("e-{number}"))).await;
    process.says("given up for a while").await;
    let base = process.http_base().await;
    let metrics = async || reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics().await.contains("overdue_webhook_circuit_open{endpoint=\"shop\"} 1"));
    // Some probes later ten attempts are spent, and no more.
    eventually("it was probed some times", async || counted(&metrics().await, "probed") >= 3).await;
    assert_eq!(counted(&metrics().await, "retried"), 10);
    receiver.answers(|_| Reply::status(204));
    process.says("answers again").await;
    eventually("all have arrived but those that failed", async || {
        let ids: HashSet<String> = arrived(&receiver);
        ids.len() == 200
    })
    .await;
    assert!(metrics().await.contains("overdue_webhook_circuit_open{endpoint=\"shop\"} 0"));
    assert_eq!(world.number("select count(*) from parked").await, 0);
    stop(process).await;
    world.close().await;
}

/// The events that were sent so far, each once.
fn arrived(receiver: &Receiver) -> HashSet<String> {
    receiver.received().iter().map(|it| it.event()["id"].as_str().unwrap().to_owned()).collect()
}

/// How many deliveries ended like this, whatever the endpoint.
fn counted(metrics: &str, outcome: &str) -> u64 {
    let end = format!("outcome=\"{outcome}\"}} ");
    let lines = metrics.lines().filter(|line| line.starts_with("overdue_webhook_deliveries_total"));
    lines.filter_map(|line| line.split_once(&end)?.1.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_that_is_dead_or_slow_delays_no_other() {
    let (world, good, slow) = (World::new().await, Receiver::start().await, Receiver::start().await);
    slow.answers(|_| Reply::Status(204, Vec::new(), Duration::from_secs(29)));
    let dead = "http://127.0.0.1:9/";
    let file = EndpointFile::with(
        &world,
        &[
            endpoint("good", &good.url(), ""),
            endpoint("dead", dead, ""),
            endpoint("slow", &slow.url(), "timeout_s = 30\nconcurrency = 4"),
        ],
    );
    let process = start(&world, &file, &[]).await;
    announce(&world, (0..300).map(|number| format!("e-{number}"))).await;
    eventually("all have arrived", async || arrived(&good).len() == 300).await;
    assert_eq!(good.received().len(), 300, "each once");
    eventually("the slow one has as many as it may", async || slow.counts().1 == 4).await;
    assert_eq!(slow.received().len(), 4);
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_receiver_does_harms_nobody() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "timeout_s = 2")]);
    receiver.answers(|received| match received.event()["id"].as_str() {
        Some("flood") => Reply::Floods,
        Some("sleep") => Reply::Status(204, Vec::new(), Duration::from_secs(60)),
        _ => Reply::status(204),
    });
    let process = start(&world, &file, &["--listen", "127.0.0.1:0"]).await;
    let base = process.http_base().await;
    let metrics = async || reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    announce(&world, ["flood", "sleep", "fine"].into_iter().map(str::to_owned)).await;
    // A flood is an answer: what comes after its head is not read.
    eventually("the flood and the fine one are delivered", async || counted(&metrics().await, "delivered") == 2).await;
    eventually("the sleeper is tried again", async || counted(&metrics().await, "retried") == 1).await;
    assert!(!process.log_text().contains("of-the-shop"), "no URL in the log: {}", process.log_text());
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 300_000, "{peak_kb} kB of memory");
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_wants_nothing_more_is_stopped_until_an_operator_says_go_on() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "concurrency = 1")]);
    receiver.answers(|_| Reply::status(410));
    let process = start(&world, &file, &[]).await;
    announce(&world, (0..20).map(|number| format!("e-{number}"))).await;
    process.says("it is stopped").await;
    let stopped = "select count(*) from webhook_endpoints where name = 'shop' and reason like '%410%'";
    assert_eq!(world.number(stopped).await, 1);
    assert_eq!(world.number("select count(*) from outbox where event = 'endpoint.stopped'").await, 1);
    assert_eq!(receiver.received().len(), 1, "nothing more is sent");
    // Another process learns of it, too.
    process.kill().await;
    let process = start(&world, &file, &[]).await;
    process.says("its events wait in its queue").await;
    let listed = world.overdue(&["webhook", "list", "--webhooks", file.path(), "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(
        listed[0]["stopped"]["reason"].as_str().unwrap().contains("410") && !listed.to_string().contains("of-the-shop"),
        "{listed}"
    );
    assert_eq!(receiver.received().len(), 1);
    receiver.answers(|_| Reply::status(204));
    let resumed = world.overdue(&["webhook", "resume", "shop"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    eventually("all have arrived", async || arrived(&receiver).len() == 20).await;
    assert_eq!(world.overdue(&["webhook", "resume", "shop"]).await.status.code(), Some(1));
    // By hand.
    assert!(world.overdue(&["webhook", "stop", "shop", "--reason", "maintenance"]).await.status.success());
    process.says("an endpoint is stopped").await;
    stop(process).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_and_refused_events_are_sent_again_by_endpoint_type_and_time() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file =
        EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), ""), endpoint("crm", &receiver.url(), "")]);
    receiver.answers(|_| Reply::status(400));
    let process = start(&world, &file, &[]).await;
    announce(&world, (0..5).map(|number| format!("e-{number}"))).await;
    let roles = [world.relay(), world.worker()];
    let attendant = world.start(&["run", "--only", "worker"]);
    let held = "select count(*) from parked where state = 'held' and reason = 'webhook_refused'";
    eventually("all are parked, for both", async || world.number(held).await == 10).await;
    receiver.answers(|_| Reply::status(204));
    let before = receiver.received().len();
    for (selection, code) in [
        (&["--endpoint", "shop", "--event", "order.paid"][..], 1),
        (&["--endpoint", "nobody"], 1),
        (&["--endpoint", "shop", "--older-than", "1h"], 1),
        (&["--endpoint", "shop", "--event", "order.closed", "--newer-than", "1h"], 0),
    ] {
        let requeued = world.overdue(&[&["parked", "requeue"], selection].concat()).await;
        assert_eq!(requeued.status.code(), Some(code), "{selection:?}: {requeued:?}");
    }
    eventually("they have arrived", async || receiver.received().len() == before + 5).await;
    assert_eq!(world.number(held).await, 5, "those of the other endpoint stay");
    // An event that has been tried in vain all the while.
    let mut headers = lapin::types::FieldTable::default();
    headers.insert("x-overdue-attempt".into(), lapin::types::AMQPValue::LongUInt(9));
    receiver.answers(|_| Reply::status(500));
    let properties = BasicProperties::default().with_headers(headers);
    world.foreign().await.publish("overdue.lanes", "now.webhook.shop", br#"{"id":"last"}"#, properties).await;
    let exhausted = "select count(*) from parked where reason = 'webhook_exhausted' and attempts = 10 and headers->>'x-overdue-endpoint' = 'shop'";
    eventually("it is parked", async || world.number(exhausted).await == 1).await;
    for roles in roles {
        roles.stop().await;
    }
    attendant.kill().await;
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_before_anything_is_sent() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let public = |name: &str, url: &str| endpoint(name, url, "").replace("allow_private = true\n", "");
    for (url, words) in [
        (receiver.url(), "no public address"),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "link-local"),
        ("https://[fe80::1]/".to_owned(), "link-local"),
        ("http://localhost:1/".to_owned(), "no public address"),
        ("https://10.1.2.3/".to_owned(), "no public address"),
        ("http://shop.example/".to_owned(), "http only for this machine"),
    ] {
        let file = EndpointFile::with(&world, &[public("shop", &url)]);
        let run = world.overdue(&["run", "--only", "webhooks", "--webhooks", file.path()]).await;
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(2) && said.contains(words) && !said.contains("whsec_"), "{url}: {said}");
    }
    // A name is resolved when it is connected to, and may lead anywhere.
    let port = receiver.url().split(['/', ':']).nth(4).unwrap().to_owned();
    let file = EndpointFile::with(&world, &[public("shop", &format!("https://localhost:{port}/"))]);
    let process = start(&world, &file, &[]).await;
    announce(&world, one("e-1")).await;
    process.says("no public address").await;
    assert_eq!(receiver.counts().0, 0, "nothing was connected to");
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_is_not_believed() {
    let world = World::new().await;
    let file = EndpointFile::with(
        &world,
        &[endpoint(
            "shop",
            &tests::env("OVERDUE_TEST_TLS_AMQP_URL")
                .replace("amqps://", "https://")
                .split('@')
                .next_back()
                .map(|rest| format!("https://{rest}/"))
                .unwrap(),
            "",
        )],
    );
    let process = start(&world, &file, &[]).await;
    announce(&world, one("e-1")).await;
    process.says("certificate").await;
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_loses_nothing() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "concurrency = 8")]);
    receiver.answers(|_| Reply::Status(204, Vec::new(), Duration::from_millis(20)));
    let mut process = start(&world, &file, &[]).await;
    announce(&world, (0..400).map(|number| format!("e-{number}"))).await;
    for enough in [50, 150] {
        eventually("some have arrived", async || arrived(&receiver).len() >= enough).await;
        process.kill().await;
        process = start(&world, &file, &[]).await;
    }
    eventually("all have arrived", async || arrived(&receiver).len() == 400).await;
    stop(process).await;
    world.foreign().await.queue_holds("overdue.v1.webhook.shop", 0).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_is_not_sent_once_the_endpoint_wants_nothing_more() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    receiver.answers(|_| Reply::status(410));
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "per_second = 2")]);
    let declared = world.overdue(&["topology", "declare", "--webhooks", file.path()]).await;
    assert!(declared.status.success(), "{declared:?}");
    announce(&world, (0..5).map(|number| format!("evt_{number}"))).await;
    let process = start(&world, &file, &[]).await;
    process.says("an endpoint wants nothing more (410)").await;
    stop(process).await;
    assert_eq!(receiver.received().len(), 1);
    let foreign = world.foreign().await;
    foreign.queue_holds("overdue.v1.webhook.shop", 5).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_id_is_sent_again_with_the_one_that_it_was_given() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    receiver.answers(|_| Reply::status(500));
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "")]);
    let process = start(&world, &file, &[]).await;
    let foreign = world.foreign().await;
    foreign.publish("overdue.events", "order.closed", b"{}", BasicProperties::default()).await;
    eventually("it was sent again", async || receiver.received().len() == 2).await;
    let sent = receiver.received();
    assert_eq!(sent[0].header("webhook-id"), sent[1].header("webhook-id"));
    stop(process).await;
    world.close().await;
}
