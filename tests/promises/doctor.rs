//! `overdue doctor` names each fault that is planted, and nothing where nothing is wrong.

use broker::Management;
use lapin::BasicProperties;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{World, env, eventually, management};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use url::Url;

/// A pooler before this world's database that drops the settings which a session asks for at its start.
struct Pooler {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Pooler {
    async fn start(world: &World) -> Self {
        let mut url: Url = world.database_url.parse().unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(Self::pass(client, server.clone()));
            }
        });
        Self { url: url.to_string(), task }
    }

    /// The start-up message is its length, the protocol's version, and names and values that end with zeros
    /// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
    async fn pass(mut client: TcpStream, server: String) -> std::io::Result<()> {
        let mut server = TcpStream::connect(server).await?;
        let length = client.read_u32().await? as usize;
        let mut message = vec![0; length - 4];
        client.read_exact(&mut message).await?;
        let (version, pairs) = message.split_at(4);
        let words: Vec<&[u8]> = pairs.split(|byte| *byte == 0).collect();
        let kept = words.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options");
        let kept: Vec<u8> = kept.flat_map(|pair| [pair[0], b"\0", pair[1], b"\0"].concat()).collect();
        server.write_u32((kept.len() + 9) as u32).await?;
        server.write_all(&[version, &kept, b"\0"].concat()).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn doctor(world: &World) -> Command {
    let mut command = world.command(&["doctor", "--json"]);
    command.env("OVERDUE_MANAGEMENT_URL", env("OVERDUE_MANAGEMENT_URL"));
    command
}

/// What it finds: objects and problems.
pub(crate) async fn findings(command: Command) -> Vec<(String, String)> {
    let told = |[object, problem, advice]: [String; 3]| {
        assert!(advice.len() > 10, "{object}: {problem} -> {advice}");
        (object, problem)
    };
    report(command).await.into_iter().map(told).collect()
}

/// What it finds: objects, problems and what to do.
pub(crate) async fn report(mut command: Command) -> Vec<[String; 3]> {
    let output = command.output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings: Vec<[String; 3]> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| ["object", "problem", "advice"].map(|field| finding[field].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!findings.is_empty())), "{output:?}");
    findings
}

/// Waits until it finds this (RabbitMQ tells of its queues only now and then).
pub(crate) async fn finds(world: &World, object: &str, problem: &str) {
    eventually(&format!("the doctor says {object}: {problem}"), async || {
        findings(doctor(world)).await.iter().any(|(o, p)| o == object && p.contains(problem))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_wrong_nothing_is_found() {
    let world = World::new().await;
    let roles = world.start(&["run"]);
    roles.says("sweeping").await;
    eventually("all is well", async || findings(doctor(&world)).await.is_empty()).await;
    let text = world.overdue(&["doctor"]).await;
    assert!(String::from_utf8_lossy(&text.stdout).contains("nothing is wrong"), "{text:?}");
    assert!(String::from_utf8_lossy(&text.stderr).contains("not checked"), "without the management API");
    roles.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_database_are_named() {
    let world = World::new().await;
    finds(&world, "sweep", "no process sweeps").await;
    world.execute("drop index orders_pending_by_deadline").await;
    world.execute("update pg_index set indisvalid = false where indexrelid = 'outbox_timeouts'::regclass").await;
    world.execute("alter table orders disable trigger order_ended").await;
    world
        .execute("insert into outbox (order_id, due_at, created_at) values ('o-0', now(), now() - interval '1 hour')")
        .await;
    world.execute("insert into orders (id, amount_minor, currency, payment_deadline) values ('o-0', 1, 'CNY', now() - interval '1 hour')").await;
    world
        .execute(
            "insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state)
             values ('r', 'x', 'wechat', 'x', 't', 1, 'CNY', 'late', 'needs_person')",
        )
        .await;
    let found = findings(doctor(&world)).await;
    for (object, problem) in [
        ("index orders_pending_by_deadline", "missing or invalid"),
        ("index outbox_timeouts", "missing or invalid"),
        ("trigger order_ended", "disabled"),
        ("outbox", "1 timeouts and 0 events, the oldest for 60 min"),
        ("orders", "1 are pending"),
        ("refunds", "1 cannot go on"),
    ] {
        assert!(found.iter().any(|(o, p)| o == object && p.contains(problem)), "{object}: {problem} in {found:?}");
    }
    world.execute("delete from overdue_migrations where version > 2").await;
    let found = findings(doctor(&world)).await;
    assert!(found.iter().any(|(o, p)| o == "schema" && p.contains("it has version 2")), "{found:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_or_refuse_are_named_and_the_rest_is_looked_at() {
    let world = World::new().await;
    let with = async |name: &str, value: &str| {
        let mut command = doctor(&world);
        command.env(name, value);
        findings(command).await
    };
    let found = with("OVERDUE_DATABASE_URL", "postgres://nobody:x@127.0.0.1:1/none").await;
    assert!(found.iter().any(|(o, p)| o == "database" && p.contains("127.0.0.1:1")), "{found:?}");
    assert!(found.iter().any(|(o, _)| o.starts_with("queue overdue.v1.due")), "the broker is looked at: {found:?}");
    let found = with("OVERDUE_AMQP_URL", "amqp://nobody:x@127.0.0.1:1/none").await;
    assert!(found.iter().any(|(o, p)| o == "broker" && p.contains("127.0.0.1:1")), "{found:?}");
    assert!(found.iter().any(|(o, _)| o == "sweep"), "the database is looked at: {found:?}");
    let found = with("OVERDUE_MANAGEMENT_URL", "http://nobody:x@127.0.0.1:1").await;
    assert!(found.iter().any(|(o, _)| o == "management API"), "{found:?}");
    let pooler = Pooler::start(&world).await;
    let found = with("OVERDUE_DATABASE_URL", &pooler.url).await;
    assert!(found.iter().any(|(o, p)| o == "database sessions" && p.contains("pooler")), "{found:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_broker_are_named() {
    let world = World::new().await;
    let foreign = world.foreign().await;
    finds(&world, "queue overdue.v1.due.payment", "has no consumer").await;
    foreign.publish("overdue.delay", "17m.payment", b"o-0", BasicProperties::default()).await;
    finds(&world, "queue overdue.v1.parked", "1 messages wait to be taken into the table").await;
    assert!(world.overdue(&["parked", "list"]).await.status.success());
    finds(&world, "parked messages", "1 messages wait for a person: unroutable").await;
    let nothing = FieldTable::default;
    foreign
        .channel
        .queue_unbind("overdue.v1.delay.5s".into(), "overdue.lanes".into(), "5s.gateway".into(), nothing())
        .await
        .unwrap();
    finds(&world, "binding overdue.lanes -> overdue.v1.delay.5s (5s.gateway)", "is missing").await;
    foreign.channel.queue_delete("overdue.v1.delay.1d".into(), QueueDeleteOptions::default()).await.unwrap();
    finds(&world, "queue overdue.v1.delay.1d", "is missing").await;
    let policy = json!({ "pattern": "^overdue", "definition": { "max-length": 10 }, "apply-to": "queues" });
    management(Method::PUT, &["policies", &world.vhost, "all"], Some(policy)).await;
    finds(&world, "queue overdue.v1.delay.30m", "max-length is in effect 10").await;
    management(Method::DELETE, &["policies", &world.vhost, "all"], None).await;
    // Letters that nobody takes: the exchange behind the lanes is gone.
    foreign.channel.exchange_delete("overdue.due".into(), ExchangeDeleteOptions::default()).await.unwrap();
    foreign.publish("overdue.delay", "1s.payment", b"o-0", BasicProperties::default()).await;
    finds(&world, "queue overdue.v1.foreign.1s", "holds 1 expired messages").await;
    let clock = time::OffsetDateTime::now_utc() - time::Duration::HOUR;
    let api = Management::new(&env("OVERDUE_MANAGEMENT_URL").into()).unwrap();
    let topology = broker::Topology::new(&world.lanes);
    let found = broker::diagnose(&topology, &world.broker(), Some(&api), Some(clock)).await.unwrap().findings;
    assert!(found.iter().any(|finding| finding.object == "clock of the broker"), "{found:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named() {
    let world = World::new().await;
    let user = format!("{}-looker", world.vhost);
    management(Method::PUT, &["users", &user], Some(json!({ "password": "secret", "tags": "monitoring" }))).await;
    // It may look at everything, publish events, and read the parked queue.
    let rights =
        json!({ "configure": "^overdue[.].*", "write": "^overdue[.]events$", "read": "^overdue[.]v1[.]parked$" });
    management(Method::PUT, &["permissions", &world.vhost, &user], Some(rights)).await;
    let mut url: url::Url = world.amqp_url.parse().unwrap();
    url.set_username(&user).unwrap();
    url.set_password(Some("secret")).unwrap();
    let mut command = doctor(&world);
    command.env("OVERDUE_AMQP_URL", url.as_str());
    let found = findings(command).await;
    let refused: Vec<&str> = found
        .iter()
        .filter(|(_, problem)| problem.contains("may not be used by this user"))
        .map(|(object, _)| object.as_str())
        .collect();
    assert_eq!(
        refused,
        [
            "queue overdue.v1.due.payment",
            "queue overdue.v1.due.gateway",
            "queue overdue.v1.due.timer",
            "queue overdue.v1.commands",
            "exchange overdue.lanes",
            "exchange overdue.parked"
        ]
    );
    management(Method::DELETE, &["users", &user], None).await;
    world.close().await;
}
