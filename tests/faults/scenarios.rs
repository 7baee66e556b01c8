//! The faults.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use reqwest::Method;
use sqlx::{Connection, PgConnection};
use tests::{World, env, eventually, management, use_servers};

use crate::neighbours;
use crate::shop::{Books, listen};
use crate::stage::{ROLES, Stage, lasts, script};

type Outcome = Pin<Box<dyn Future<Output = (u32, Books)>>>;

/// A fault, made so many times as is asked for (or as it can be), with the books afterwards.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u32) -> Outcome,
}

macro_rules! scenarios {
    ($($name:literal => $run:path),* $(,)?) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario { name: $name, run: |rounds| Box::pin($run(rounds)) }),*];
    };
}

scenarios! {
    "worker killed (-9)" => worker_killed,
    "relay killed (-9)" => relay_killed,
    "sweep leader killed (-9)" => sweep_leader_killed,
    "webhooks killed (-9)" => webhooks_killed,
    "one of each killed at random" => killed_at_random,
    "broker stopped and started" => broker_stopped,
    "broker killed (-9) and started" => broker_killed,
    "PostgreSQL killed (-9) and started" => postgres_killed,
    "network to the broker cut" => broker_cut,
    "network to the broker half-open" => broker_frozen,
    "network to PostgreSQL cut" => database_cut,
    "network to PostgreSQL half-open" => database_frozen,
    "network delayed" => delayed,
    "broker out of disk (connection blocked)" => disk_alarm,
    "PostgreSQL takes no more connections" => connections_exhausted,
    "clock of the roles' host an hour off" => clock_off,
    "message bodies fuzzed" => fuzzed,
    "queue leader killed in a three-node cluster" => queue_leader_killed,
    "beside: a trigger that raises" => neighbours::raising_trigger,
    "beside: a SKU that stays locked" => neighbours::locked_sku,
    "beside: a poison message each second" => neighbours::poison,
    "beside: a policy, set and removed" => neighbours::policy,
    "beside: a checkout with odd traces" => neighbours::odd_checkout,
    "beside: a standby, promoted" => neighbours::standby_promoted,
}

async fn worker_killed(rounds: u32) -> (u32, Books) {
    kill_each(rounds, [2, 3]).await
}

async fn relay_killed(rounds: u32) -> (u32, Books) {
    kill_each(rounds, [0, 1]).await
}

async fn webhooks_killed(rounds: u32) -> (u32, Books) {
    kill_each(rounds, [6, 7]).await
}

/// Both, one after the other; at times both are dead.
async fn kill_each(rounds: u32, both: [usize; 2]) -> (u32, Books) {
    let mut stage = Stage::set().await;
    for _ in 0..rounds {
        for index in both {
            stage.kill(index).await;
            stage.shop.goes_on(20).await;
        }
        for index in both {
            stage.start(index).await;
        }
        stage.shop.goes_on(20).await;
    }
    (2 * rounds, stage.end().await)
}

async fn sweep_leader_killed(rounds: u32) -> (u32, Books) {
    let mut stage = Stage::set().await;
    // Without workers the sweep is all there is.
    stage.kill(2).await;
    stage.kill(3).await;
    for _ in 0..rounds {
        while stage.leader().is_none() {
            lasts(0.1).await;
        }
        let leader = stage.leader().expect("a leader");
        stage.shop.goes_on(40).await;
        stage.kill(leader).await;
        stage.shop.goes_on(40).await;
        stage.start(leader).await;
    }
    // The sweep alone, for a while.
    lasts(5.0).await;
    (rounds, stage.end().await)
}

/// Two of each, one of them killed every other moment: for ten seconds, and five minutes when much is asked for.
async fn killed_at_random(rounds: u32) -> (u32, Books) {
    let mut stage = Stage::set().await;
    let seconds = if rounds > 1 { 300 } else { 10 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kills = 0;
    while Instant::now() < end {
        let index = (random() % ROLES.len() as u64) as usize;
        stage.kill(index).await;
        kills += 1;
        lasts((random() % 1000) as f64 / 1000.0).await;
        stage.start(index).await;
        lasts((random() % 500) as f64 / 1000.0).await;
    }
    (kills, stage.end().await)
}

async fn broker_stopped(rounds: u32) -> (u32, Books) {
    restarted(rounds, "stop-rabbitmq").await
}

/// A quorum queue that RabbitMQ cannot recover in time after a crash loses its bindings, and events for it are dropped. A
/// subscriber therefore declares and binds its queue each time that it connects. This one is back before the roles are.
async fn broker_killed(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        stage.to_broker.cut();
        script("local", &["kill-rabbitmq"]).await;
        lasts(3.0).await;
        script("local", &["up"]).await;
        listen(&stage.world).await;
        stage.to_broker.pass();
        stage.shop.goes_on(40).await;
    }
    (rounds, stage.end().await)
}

async fn postgres_killed(rounds: u32) -> (u32, Books) {
    restarted(rounds, "kill-postgres").await
}

async fn restarted(rounds: u32, how: &str) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        script("local", &[how]).await;
        lasts(3.0).await;
        script("local", &["up"]).await;
        stage.shop.goes_on(40).await;
    }
    (rounds, stage.end().await)
}

async fn broker_cut(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        stage.to_broker.cut();
        lasts(3.0).await;
        stage.to_broker.pass();
        stage.shop.goes_on(40).await;
    }
    (rounds, stage.end().await)
}

/// Longer than two heartbeats of fifteen seconds would be needed for somebody to notice; the lines stay dead.
async fn broker_frozen(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        stage.to_broker.freeze();
        stage.shop.goes_on(100).await;
    }
    (rounds, stage.end().await)
}

async fn database_cut(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        stage.to_database.cut();
        lasts(3.0).await;
        stage.to_database.pass();
        stage.shop.goes_on(40).await;
    }
    (rounds, stage.end().await)
}

async fn database_frozen(rounds: u32) -> (u32, Books) {
    let stage = Stage::set_with(&[("OVERDUE_STATEMENT_TIMEOUT", "2s")]).await;
    for _ in 0..rounds {
        stage.to_database.freeze();
        stage.shop.goes_on(100).await;
    }
    (rounds, stage.end().await)
}

/// A quarter of a second each way.
async fn delayed(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        stage.to_broker.delay(Duration::from_millis(250));
        stage.to_database.delay(Duration::from_millis(250));
        stage.shop.goes_on(100).await;
        stage.to_broker.delay(Duration::ZERO);
        stage.to_database.delay(Duration::ZERO);
        stage.shop.goes_on(20).await;
    }
    (rounds, stage.end().await)
}

async fn disk_alarm(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    // Idle, so that it learns of the alarm from its readiness alone.
    let idle = stage.world.start(&["run", "--only", "worker", "--listen", "127.0.0.1:0"]);
    idle.says("running").await;
    let ready_at = format!("{}/readyz", idle.http_base().await);
    let readiness = async || reqwest::get(&ready_at).await.expect("an answer").text().await.expect("a text");
    for _ in 0..rounds {
        eventually("it is ready", async || readiness().await == "ready\n").await;
        script("local", &["rabbitmqctl", "--quiet", "set_disk_free_limit", "9000GB"]).await;
        stage.shop.goes_on(60).await;
        eventually("it is not ready", async || readiness().await.contains("blocks publishers")).await;
        let mut doctor = stage.world.command(&["doctor", "--json"]);
        doctor.env("OVERDUE_MANAGEMENT_URL", env("OVERDUE_MANAGEMENT_URL"));
        let report = tokio::time::timeout(Duration::from_secs(60), doctor.output()).await;
        let report = report.expect("the doctor comes to an end").expect("the doctor comes");
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("has its disk alarm on"), "{report}");
        script("local", &["rabbitmqctl", "--quiet", "set_disk_free_limit", "50MB"]).await;
        stage.shop.goes_on(20).await;
        eventually("it is ready again", async || readiness().await == "ready\n").await;
    }
    idle.kill().await;
    (rounds, stage.end().await)
}

/// Whoever loses a connection gets no other for a while.
async fn connections_exhausted(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    for _ in 0..rounds {
        let mut taken = Vec::new();
        let ended = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'overdue' and datname = current_database()",
        );
        let mut admin = PgConnection::connect(&stage.world.database_url).await.expect("a connection");
        ended.execute(&mut admin).await.expect("terminated");
        while let Ok(connection) = PgConnection::connect(&stage.world.database_url).await {
            taken.push(connection);
        }
        assert!(taken.len() > 50, "the server took no more than {}", taken.len());
        lasts(4.0).await;
        drop(taken);
        stage.shop.goes_on(20).await;
    }
    (rounds, stage.end().await)
}

/// An hour ahead, then an hour behind: the database's clock decides.
async fn clock_off(rounds: u32) -> (u32, Books) {
    let library = script("unpacked", &["libfaketime", "/usr/lib/*/faketime/libfaketime.so.1"]).await;
    let mut all = Books::default();
    for round in 0..2 * rounds {
        let offset = if round % 2 == 0 { "+3600" } else { "-3600" };
        let environment = [
            ("LD_PRELOAD", library.trim()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let stage = Stage::set_with(&environment).await;
        stage.shop.goes_on(60).await;
        let early = stage
            .world
            .number("select count(*) from orders where status = 'closed' and closed_at < payment_deadline")
            .await;
        let mut books = stage.end().await;
        if early > 0 {
            books.wrong.push(format!("{early} orders were closed early"));
        }
        add(&mut all, books);
    }
    (2 * rounds, all)
}

/// Bytes at random, and good messages with one byte changed, among the good ones.
async fn fuzzed(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    let foreign = stage.world.foreign().await;
    let good = br#"{"v":1,"orders":[{"id":"o-1","due":"2026-11-22T08:30:00Z"},{"id":"o-2"}]}"#;
    let count = 200 * rounds;
    for _ in 0..count {
        let body: Vec<u8> = match random() % 3 {
            0 => (0..random() % 200).map(|_| random() as u8).collect(),
            1 => {
                let mut body = good.to_vec();
                let at = (random() % body.len() as u64) as usize;
                body[at] = random() as u8;
                body
            }
            _ => good[..(random() % good.len() as u64) as usize].to_vec(),
        };
        let queue = if random().is_multiple_of(2) { "30m.payment" } else { "30m.gateway" };
        foreign.publish("overdue.due", queue, &body, BasicProperties::default()).await;
    }
    stage.shop.goes_on(40).await;
    (count, stage.end().await)
}

/// The queues are declared over the second node, which leads them then; the roles are connected to the first. Once another
/// has taken over, that one is killed.
async fn queue_leader_killed(rounds: u32) -> (u32, Books) {
    script("cluster", &["up"]).await;
    let settings = script("cluster", &["env"]).await;
    let settings: HashMap<&str, &str> = settings.lines().filter_map(|line| line.split_once('=')).collect();
    use_servers(Some(HashMap::from([
        ("OVERDUE_AMQP_URL".to_owned(), settings["amqp_url2"].to_owned()),
        ("OVERDUE_MANAGEMENT_URL".to_owned(), settings["management_url1"].to_owned()),
    ])));
    let stage = Stage::set_at(settings["amqp_url1"], &[]).await;
    for _ in 0..rounds {
        let number = leader(&stage.world, &settings).await;
        script("cluster", &["kill", number]).await;
        stage.shop.goes_on(60).await;
        script("cluster", &["start", number]).await;
        stage.shop.goes_on(20).await;
    }
    let books = stage.end().await;
    use_servers(None);
    script("cluster", &["down"]).await;
    (rounds, books)
}

/// The number of the node that leads the due queue.
async fn leader(world: &World, settings: &HashMap<&str, &str>) -> &'static str {
    loop {
        let queue = management(Method::GET, &["queues", &world.vhost, "overdue.v1.due.payment"], None).await;
        let leads = |number: &&str| Some(settings[format!("node{number}").as_str()]) == queue["leader"].as_str();
        if let Some(number) = ["1", "2", "3"].into_iter().find(leads) {
            return number;
        }
        lasts(0.2).await;
    }
}

fn add(all: &mut Books, books: Books) {
    all.orders += books.orders;
    all.closed += books.closed;
    all.paid += books.paid;
    all.cancelled += books.cancelled;
    all.rescued += books.rescued;
    all.timers += books.timers;
    all.events += books.events;
    all.delivered += books.delivered;
    all.lost += books.lost;
    all.late_max_s = all.late_max_s.max(books.late_max_s);
    all.wrong.extend(books.wrong);
}

/// Good enough to choose victims by.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
