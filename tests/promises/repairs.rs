//! The repairs of the runbook, each typed as it stands there.

use std::path::Path;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tests::{World, eventually};

/// The commands under this heading of the runbook, in their order.
fn commands(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbook.md");
    let text = std::fs::read_to_string(path).unwrap();
    let repairs = text.split("\n## Repairs\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let section = repairs.split("\n### ").find(|section| section.starts_with(heading)).expect(heading);
    let commands: Vec<String> =
        section.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect();
    assert!(!commands.is_empty(), "{heading}");
    commands
}

/// Types them, with this order in the place of the runbook's.
async fn type_in(world: &World, heading: &str, order: &str) {
    for command in commands(heading) {
        let command = command.replace("O-1", order);
        match command.strip_prefix("overdue ") {
            Some(arguments) => {
                let output = world.overdue(&words(arguments)).await;
                assert!(output.status.success(), "{command}: {output:?}");
            }
            None => drop(sqlx::raw_sql(AssertSqlSafe(command)).execute(&world.pool).await.unwrap()),
        }
    }
}

/// As a shell takes them apart: quotes keep blanks.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part);
        } else {
            words.extend(part.split_whitespace());
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_order_is_opened_again_and_closes_again() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let order = world.overdue_order("tea").await;
    let (relay, worker) = (world.relay(), world.worker());
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    world.becomes(&order.id, "closed").await;
    type_in(&world, "An order that was closed is wanted", order.id.as_str()).await;
    assert_eq!((world.status(&order.id).await.as_str(), world.shelf("tea").await), ("pending", (9, 1)));
    world.audit().await;
    let shown = world.overdue(&["order", "show", order.id.as_str()]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("customer called") && text.contains("support alice"), "{text}");
    // Again, while it is open: no.
    let again = world.overdue(&["order", "reopen", order.id.as_str(), "--reason", "x"]).await;
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && text.contains("only an order that was closed"), "{again:?}");
    // A second later it is due again.
    world.execute("update orders set payment_deadline = now()").await;
    world.becomes(&order.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (10, 0));
    // Not without stock, and not with a trade that was begun.
    world.execute("update inventory set available = 0").await;
    let out = world.overdue(&["order", "reopen", order.id.as_str(), "--reason", "x"]).await;
    assert!(String::from_utf8_lossy(&out.stderr).contains("not enough stock"), "{out:?}");
    world.execute("update inventory set available = 10").await;
    let trade =
        format!("insert into payments (order_id, gateway, prepay) values ('{}', 'wechat', 'created')", order.id);
    world.execute(&trade).await;
    let gone = world.overdue(&["order", "reopen", order.id.as_str(), "--reason", "x"]).await;
    assert!(String::from_utf8_lossy(&gone.stderr).contains("create a new order"), "{gone:?}");
    let unknown = world.overdue(&["order", "reopen", "nowhere", "--reason", "x"]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no order nowhere"), "{unknown:?}");
    assert_eq!((world.status(&order.id).await.as_str(), world.shelf("tea").await), ("closed", (10, 0)));
    relay.stop().await;
    worker.stop().await;
    world.execute("delete from payments").await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_move_both_ways_and_no_alarm_is_raised() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    type_in(&world, "Deadlines are to move", order.id.as_str()).await;
    let (relay, worker) = (world.relay(), world.worker());
    // Two days back, so into the past: by message or by the sweep, whichever is first.
    let sweep = world.start(&[
        "run",
        "--only",
        "sweep",
        "--sweep-every",
        "100ms",
        "--sweep-grace",
        "1s",
        "--listen",
        "127.0.0.1:0",
    ]);
    sweep.says("sweeping").await;
    relay.stop().await;
    worker.stop().await;
    world.execute("update orders set payment_deadline = payment_deadline - interval '2 days'").await;
    world.becomes(&order.id, "closed").await;
    let base = sweep.http_base().await;
    eventually("it counts as moved", async || {
        let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        assert!(metrics.contains("overdue_rescued_total 0"), "{metrics}");
        metrics.contains("overdue_moved_total 1")
    })
    .await;
    sweep.kill().await;
    // Sent at last, its message finds it closed.
    let (relay, worker) = (world.relay(), world.worker());
    eventually("all is sent", async || world.number("select count(*) from outbox").await == 0).await;
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_import_is_repaired_and_what_was_parked_goes_in_again() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(world.overdue_order("tea").await);
    }
    world.execute("update inventory set reserved = 0").await;
    let worker = world.start(&["run", "--only", "worker"]);
    let foreign = world.foreign().await;
    for order in &orders {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    eventually("all are parked", async || {
        world.number("select coalesce(sum(cardinality(orders)), 0)::bigint from parked where state = 'held'").await == 5
    })
    .await;
    type_in(&world, "A stock import has overwritten", "").await;
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!(world.shelf("tea").await, (100, 0));
    worker.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_by_plain_sql_is_put_right() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let by_hand = world.order("tea", Duration::from_secs(3600)).await;
    world.execute("update orders set status = 'closed', closed_at = payment_deadline + interval '1 second', payment_deadline = payment_deadline").await;
    type_in(&world, "An order was closed by plain SQL", by_hand.id.as_str()).await;
    assert_eq!(world.shelf("tea").await, (10, 0));
    // Imported orders, and queues that were purged.
    let imported = world.order("tea", Duration::from_secs(2)).await;
    let purged = world.order("tea", Duration::from_secs(2)).await;
    world.execute("delete from outbox").await;
    type_in(&world, "Orders were inserted without", imported.id.as_str()).await;
    assert_eq!(world.number("select count(*) from outbox").await, 1);
    type_in(&world, "A queue with waiting messages", "").await;
    let look = commands("A session holds rows locked").remove(0);
    sqlx::raw_sql(AssertSqlSafe(look)).execute(&world.pool).await.unwrap();
    let (relay, worker) = (world.relay(), world.worker());
    for order in [&imported, &purged] {
        world.becomes(&order.id, "closed").await;
    }
    eventually("all is sent", async || world.number("select count(*) from outbox").await == 0).await;
    relay.stop().await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}
