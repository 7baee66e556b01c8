//! Who is at work, and what they say of themselves.

use std::time::Duration;

use book::{CircuitOf, CircuitState, Heartbeat, Lateness, Processes};
use database::Purpose;
use tests::{Process, World, eventually};
use time::OffsetDateTime;

use crate::stage::Stage;

fn beat(id: &str, late: Vec<u64>, max_ms: u64, rescued: u64) -> Heartbeat {
    Heartbeat {
        id: id.to_owned(),
        host: "a".to_owned(),
        pid: 1,
        version: "1".to_owned(),
        roles: vec!["worker".to_owned()],
        started_at: OffsetDateTime::now_utc(),
        is_first: true,
        sweep_leader: false,
        held_orders: 3,
        counters: [("closed".to_owned(), late.iter().sum())].into(),
        circuits: Vec::new(),
        late: Lateness { counts: late, max: Duration::from_millis(max_ms) },
        fired: 0,
        rescued,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_says_twice_counts_once() {
    let world = World::bare(&[]).await;
    let processes = Processes::new(world.client(2, Purpose::Shop));
    let (one, other) = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002");
    let counts = |first, last| [vec![first], vec![0; 13], vec![last]].concat();
    processes.beat(&beat(one, counts(5, 0), 9, 0)).await.unwrap();
    // Its answer was lost, so it is said again; then there is more.
    processes.beat(&beat(one, counts(5, 0), 9, 0)).await.unwrap();
    processes.beat(&beat(one, counts(8, 1), 8_000_000, 2)).await.unwrap();
    processes.beat(&beat(one, counts(8, 1), 0, 2)).await.unwrap();
    processes.beat(&beat(other, counts(1, 0), 3, 0)).await.unwrap();
    let minutes = processes.minutes(5, None).await.unwrap();
    let mut all = Lateness::default();
    minutes.iter().for_each(|minute| all.add(&minute.late));
    assert_eq!((all.counts[0], all.counts[14], all.max), (9, 1, Duration::from_millis(8_000_000)));
    assert_eq!(processes.rescued_by_hour().await.unwrap().iter().map(|(_, count)| count).sum::<u64>(), 2);
    // A row that is gone is no reason to count all of it anew.
    assert!(processes.forget(one).await.unwrap());
    processes.beat(&Heartbeat { is_first: false, ..beat(one, counts(9, 1), 7, 2) }).await.unwrap();
    processes.beat(&Heartbeat { is_first: false, ..beat(one, counts(10, 1), 7, 2) }).await.unwrap();
    let mut again = Lateness::default();
    processes.minutes(5, None).await.unwrap().iter().for_each(|minute| again.add(&minute.late));
    assert_eq!(again.count(), all.count() + 1);
    assert!(!processes.forget_silent(one).await.unwrap(), "it is at work");
    let known = processes.all().await.unwrap();
    let said = &known.iter().find(|process| process.said.id == one).unwrap().said;
    assert_eq!((known.len(), said.held_orders, said.counters["closed"]), (2, 3, 11));
    // What an operator wants tried, everybody is told.
    processes.request_probe(CircuitOf::Gateway, "wechat", "alice").await.unwrap();
    let told = processes.beat(&beat(other, counts(1, 0), 0, 0)).await.unwrap();
    assert_eq!((told.len(), told[0].of, told[0].name.as_str()), (1, CircuitOf::Gateway, "wechat"));
    // Whatever a gateway says of its fault, the process can say that it is at work.
    let circuit = CircuitState {
        of: CircuitOf::Gateway,
        name: "wechat".to_owned(),
        call: "query".to_owned(),
        open_since: None,
        next_probe: None,
        fault: Some("a\0b \\u0000".to_owned()),
        fault_at: None,
        in_flight: 0,
    };
    processes.beat(&Heartbeat { circuits: vec![circuit], ..beat(other, counts(1, 0), 0, 0) }).await.unwrap();
    let known = processes.all().await.unwrap();
    let said = &known.iter().find(|process| process.said.id == other).unwrap().said;
    assert_eq!(said.circuits[0].fault.as_deref(), Some("ab \\u0000"));
    world.execute("update processes set seen_at = now() - interval '2 hours' where id::text like '%1'").await;
    world.execute("update process_minutes set minute = minute - interval '2 days'").await;
    processes.tidy().await.unwrap();
    assert_eq!((processes.all().await.unwrap().len(), processes.minutes(9_999, None).await.unwrap().len()), (1, 0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_says_so_and_one_that_dies_is_missed() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let stage = Stage::with(&world, &["run", "--only", "console,sweep"], &[]).await;
    stage.shows("/console", "role relay: no process with it is at work").await;
    let mut relay = world.start(&["run", "--only", "relay"]);
    let worker: Process = world.start(&["run", "--only", "worker"]);
    stage.shows("/console", "Nothing is wrong").await;
    for _ in 0..20 {
        world.order("tea", Duration::from_millis(500)).await;
    }
    // Counted, though another process shows it.
    let closed = "select coalesce(sum((select sum(n) from unnest(late) n)), 0)::bigint from process_minutes";
    eventually("the closes are counted", async || world.number(closed).await == 20).await;
    stage.shows("/console", "<td class=\"n\" data-label=\"Closed\">20</td>").await;
    relay.terminate().await;
    assert!(relay.ended().await.success());
    assert_eq!(world.number("select count(*) from processes where roles = '{relay}'").await, 0, "it has said so");
    stage.shows("/console", "role relay: no process with it is at work").await;
    worker.kill().await;
    world.execute("update processes set seen_at = seen_at - interval '1 minute' where roles = '{worker}'").await;
    stage.shows("/console", "has said nothing for").await;
    stage.shows("/console/processes", "silent").await;
    let output = world.overdue(&["doctor"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("role relay: no process") && text.contains("role worker: no process"), "{text}");
    assert!(text.contains("has said nothing for"), "{text}");
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_locks_the_trail_holds_up_nothing_that_matters() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let stage = Stage::new(&world).await;
    let mut locked = world.connection().await;
    sqlx::raw_sql("begin; lock table order_trail in access exclusive mode").execute(&mut *locked).await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(world.order("tea", Duration::from_millis(300)).await);
        world.becomes(&orders[orders.len() - 1].id, "closed").await;
    }
    assert!(stage.client.get(format!("{}/readyz", stage.base)).send().await.unwrap().status().is_success());
    // It goes on saying that it is at work.
    let seen = "select extract(epoch from max(seen_at))::bigint from processes";
    for _ in 0..2 {
        let before = world.number(seen).await;
        eventually("its next heartbeat", async || world.number(seen).await > before).await;
    }
    stage.process.says("cannot be written down").await;
    sqlx::raw_sql("rollback").execute(&mut *locked).await.unwrap();
    drop(locked);
    stage.end().await;
    world.close().await;
}
