//! Code, definitions file and live broker say the same.

use std::path::Path;

use broker::{Management, Topology, declare, verify};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use order::Lanes;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{World, env, eventually, management};

fn standard() -> Topology {
    Topology::new(&Lanes::standard(&[]))
}

#[test]
fn the_definitions_file_is_what_the_code_exports() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rabbitmq/definitions.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(
        file == standard().definitions("/"),
        "rabbitmq/definitions.json is not what the code exports: run `make definitions`"
    );
}

/// Everything of ours that the broker has, without what tells the virtual hosts apart.
async fn live(vhost: &str) -> Value {
    let rows = async |kind: &str, fields: &[&str]| {
        let listed = management(Method::GET, &[kind, vhost], None).await;
        let row = |row: &Value| fields.iter().map(|field| row[field].clone()).collect::<Value>();
        let ours = |row: &&Value| row.to_string().contains("overdue.");
        let mut rows: Vec<Value> = listed.as_array().unwrap().iter().filter(ours).map(row).collect();
        rows.sort_by_key(Value::to_string);
        rows
    };
    json!({
        "exchanges": rows("exchanges", &["name", "type", "durable", "auto_delete", "internal", "arguments"]).await,
        "queues": rows("queues", &["name", "type", "durable", "auto_delete", "exclusive", "arguments"]).await,
        "bindings": rows("bindings", &["source", "destination", "destination_type", "routing_key", "arguments"]).await,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_the_file_and_declaring_are_the_same() {
    let declared = World::new().await;
    let imported = World::bare(&[]).await;
    management(Method::POST, &["definitions", &imported.vhost], Some(standard().definitions(&imported.vhost))).await;
    let both = (live(&declared.vhost).await, live(&imported.vhost).await);
    assert_eq!(both.0["queues"].as_array().map(Vec::len), Some(49));
    assert_eq!(both.0, both.1);
    // And declaring on top of an import changes nothing and conflicts with nothing.
    declare(&standard(), &imported.broker()).await.unwrap();
    assert_eq!(live(&imported.vhost).await, both.1);
    declared.close().await;
    imported.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_everything_that_is_off() {
    let world = World::new().await;
    let admin = Management::new(&env("OVERDUE_MANAGEMENT_URL").into()).unwrap();
    let findings = async || {
        let verification = verify(&standard(), &world.broker(), Some(&admin)).await.unwrap();
        assert_eq!(verification.unchecked, Vec::<String>::new());
        verification
            .findings
            .iter()
            .map(|finding| format!("{}: {}", finding.object, finding.problem))
            .collect::<Vec<_>>()
    };
    assert_eq!(findings().await, Vec::<String>::new());

    let foreign = world.foreign().await;
    let nothing = FieldTable::default;
    let lane = "overdue.v1.foreign.5s";
    foreign.channel.queue_unbind(lane.into(), "overdue.delay".into(), "5s.payment".into(), nothing()).await.unwrap();
    management(Method::DELETE, &["queues", &world.vhost, "overdue.v1.delay.2m"], None).await;
    // A classic queue in the place of a quorum queue.
    management(Method::DELETE, &["queues", &world.vhost, "overdue.v1.delay.2h"], None).await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    foreign.channel.queue_declare("overdue.v1.delay.2h".into(), options, nothing()).await.unwrap();
    management(Method::DELETE, &["exchanges", &world.vhost, "overdue.events"], None).await;
    // A policy that sets what the arguments leave open: waiting orders would vanish.
    let policy = json!({ "pattern": "30s$", "apply-to": "queues", "definition": { "expires": 60000 } });
    management(Method::PUT, &["policies", &world.vhost, "tidy"], Some(policy)).await;
    // Of two numbers the lower one holds.
    let policy = json!({ "pattern": "30m$", "apply-to": "queues", "definition": { "message-ttl": 2000 } });
    management(Method::PUT, &["policies", &world.vhost, "hasty"], Some(policy)).await;
    // A way past the lanes.
    let (due, delay) = ("overdue.v1.due.payment".into(), "overdue.delay".into());
    foreign.channel.queue_bind(due, delay, "#".into(), QueueBindOptions::default(), nothing()).await.unwrap();

    let expected = [
        "exchange overdue.events: is missing",
        "queue overdue.v1.delay.2m: is missing",
        "queue overdue.v1.delay.2h: was declared otherwise",
        "binding overdue.delay -> overdue.v1.foreign.5s (5s.payment): is missing",
        "binding overdue.lanes -> overdue.v1.delay.2m (2m.gateway): is missing",
        "queue overdue.v1.delay.2h: dead-letter-strategy is in effect null, not \"at-least-once\"",
        "queue overdue.v1.delay.30s: expires is in effect 60000, not null",
        "queue overdue.v1.delay.30m: message-ttl is in effect 2000, not 1800000",
        "binding overdue.delay -> overdue.v1.due.payment (#): leads messages of ours past their lane",
    ];
    // The management API lags behind the broker by some seconds.
    let mut missing = Vec::new();
    for _ in 0..600 {
        let found = findings().await;
        missing = expected.into_iter().filter(|text| !found.iter().any(|finding| finding.starts_with(text))).collect();
        if missing.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(missing, Vec::<&str>::new());
    world.close().await;
}

/// Versions before bound one lane to both exchanges, and the first ones for every kind.
#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_versions_bound_is_named_and_removed_by_declaring() {
    let world = World::new().await;
    let admin = Management::new(&env("OVERDUE_MANAGEMENT_URL").into()).unwrap();
    let before = live(&world.vhost).await;
    let channel = world.foreign().await.channel;
    for (source, key) in [("overdue.delay", "30m.payment"), ("overdue.delay", "30m.*"), ("overdue.lanes", "30m.#")] {
        let lane = "overdue.v1.delay.30m".into();
        channel
            .queue_bind(lane, source.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let binding = format!("binding {source} -> overdue.v1.delay.30m ({key}): is of an earlier version");
        eventually(&binding, async || {
            let verification = verify(&standard(), &world.broker(), Some(&admin)).await.unwrap();
            verification.findings.iter().any(|finding| {
                finding.to_string().starts_with(&binding) && finding.advice == "run `overdue topology declare`"
            })
        })
        .await;
    }
    assert!(world.overdue(&["topology", "declare"]).await.status.success());
    assert_eq!(live(&world.vhost).await, before);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_changes_nothing() {
    let world = World::bare(&[]).await;
    let verification = verify(&standard(), &world.broker(), None).await.unwrap();
    assert_eq!(verification.findings.len(), 57, "{:?}", verification.findings);
    assert_eq!(verification.unchecked.len(), 1, "says what it could not check without the management API");
    let left = live(&world.vhost).await;
    assert_eq!(left, json!({ "exchanges": [], "queues": [], "bindings": [] }));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_was_asked_for_and_could_not_be_made_is_no_pass() {
    let world = World::new().await;
    let nobody = Management::new(&env("OVERDUE_MANAGEMENT_URL").replace('@', "wrong@").into()).unwrap();
    let verification = verify(&standard(), &world.broker(), Some(&nobody)).await.unwrap();
    assert_eq!(verification.findings.len(), 1, "{verification:?}");
    assert!(verification.findings[0].problem.contains("refused access"), "{verification:?}");
    world.close().await;
}
