//! What comes early is held in memory until it is due. Nothing is lost, late or done twice for that.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use order::{Deadline, Hop, Lanes, OrderId};
use reqwest::Method;
use serde_json::json;
use tests::{World, eventually, management};
use time::OffsetDateTime;
use worker::PipelineSettings;

const MINUTES: Duration = Duration::from_mins(12);

/// Orders without a row in `orders`: only those that are looked at need one.
async fn arm_unknown(world: &World, count: u32, due_in: &str) {
    let arm = format!(
        "insert into outbox (order_id, due_at)
         select 'unknown-' || n, clock_timestamp() + interval '{due_in}' from generate_series(1, {count}) n"
    );
    world.execute(&arm).await;
}

/// A world in which all is held that is due within some minutes.
async fn patient_world() -> World {
    let mut world = World::new().await;
    world.lanes = world.lanes.clone().with_margin(MINUTES);
    world.stock("tea", 1_000_000).await;
    world
}

/// Orders for one piece of tea each, one due after the other within some tenths of a second. All the tea that there is.
async fn create_many(world: &World, count: i64, due_in: &str) {
    let create = format!(
        "insert into orders (id, amount_minor, currency, payment_deadline)
             select 'o-' || n, 1999, 'CNY', now() + interval '{due_in}' + n * interval '0.01 ms' from generate_series(1, {count}) n;
         insert into order_items (order_id, sku_id, quantity) select id, 'tea', 1 from orders;
         update inventory set available = 0, reserved = {count};
         insert into order_log (order_id, to_status, reason, actor) select id, 'pending', 'created', 'test' from orders;
         insert into outbox (order_id, due_at) select id, payment_deadline from orders"
    );
    world.execute(&create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_odd_deadlines_are_looked_at_once_and_close_when_they_are_due() {
    const ORDERS: u64 = 60;
    let world = World::new().await;
    world.stock("tea", 1_000).await;
    let (relay, worker) = (world.relay(), world.worker());
    for number in 0..ORDERS {
        world.order("tea", Duration::from_millis(1_000 + number * 211)).await;
    }
    eventually("all are closed", async || worker.counted().closed == ORDERS).await;
    let counted = worker.counted();
    assert_eq!((counted.orders, counted.waiting), (ORDERS, 0), "{counted:?}");
    assert!(counted.messages <= 2 * ORDERS, "{counted:?}");
    assert_eq!(world.number("select count(*) from orders where closed_at < payment_deadline").await, 0);
    relay.stop().await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// The broker sends all to the pipeline that subscribes first. While that settles a batch, the other finds the next in the hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_receives_more_than_it_settles_itself() {
    const ORDERS: i64 = 8_192;
    const BATCH: usize = 256;
    let world = World::new().await;
    world.stock("tea", ORDERS).await;
    create_many(&world, ORDERS, "-10 seconds").await;
    let relay = world.relay();
    eventually("they are sent", async || relay.relayed().0 == ORDERS as u64).await;
    relay.stop().await;
    let mut gate = world.gate("insert on order_log").await;
    let worker = world.worker_with(PipelineSettings { batch_orders_max: BATCH, ..PipelineSettings::default() });
    // At first there may be one message, and several later.
    eventually("more is held than two pipelines have in hand", async || {
        gate.let_through().await;
        worker.counted().held_orders > 2 * BATCH as i64
    })
    .await;
    gate.open().await;
    eventually("all are closed", async || worker.counted().closed == ORDERS as u64).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_it_holds_50_000_orders_loses_none() {
    const ORDERS: i64 = 50_000;
    let mut world = World::new().await;
    world.stock("tea", ORDERS).await;
    create_many(&world, ORDERS, "40 seconds").await;
    // They are in the due queue before the worker starts.
    world.lanes = world.lanes.clone().with_margin(MINUTES);
    let relay = world.relay();
    eventually("they are sent", async || relay.relayed().0 == ORDERS as u64).await;
    relay.stop().await;
    let near = "select count(*) from orders where payment_deadline < clock_timestamp() + interval '8 seconds'";
    eventually("they are due soon", async || world.number(near).await > 0).await;
    let doomed = world.start(&["run", "--only", "worker", "--listen", "127.0.0.1:0"]);
    let base = doomed.http_base().await;
    let held = async || {
        let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("overdue_held_orders ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{metrics}")).parse::<i64>().unwrap()
    };
    eventually("it holds all", async || held().await == ORDERS).await;
    doomed.kill().await;
    let worker = world.worker();
    eventually("all are closed", async || {
        world.number("select count(*) from orders where status = 'closed'").await == ORDERS
    })
    .await;
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, ORDERS);
    assert_eq!(world.shelf("tea").await, (ORDERS, 0));
    world.foreign().await.queue_holds("overdue.v1.parked", 0).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_back_when_the_worker_stops() {
    let world = patient_world().await;
    arm_unknown(&world, 1_000, "10 minutes").await;
    let (relay, worker) = (world.relay(), world.worker());
    eventually("all are held", async || worker.counted().held_orders == 1_000).await;
    let counted = worker.counted();
    assert_eq!((counted.orders, counted.messages), (0, 0), "neither looked at nor acked: {counted:?}");
    worker.stop().await;
    let next = world.worker();
    eventually("the next holds them", async || next.counted().held_orders == 1_000).await;
    relay.stop().await;
    next.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_order_while_it_is_held_counts() {
    let world = patient_world().await;
    let (relay, worker) = (world.relay(), world.worker());
    let soon = Duration::from_secs(4);
    let (paid, extended) = (world.order("tea", soon).await, world.order("tea", soon).await);
    let (forward, untouched) = (world.order("tea", MINUTES).await, world.order("tea", soon).await);
    eventually("all are held", async || worker.counted().held_orders == 4).await;
    world.pay(&paid.id, Some("4200")).await.unwrap();
    let later = world.set_deadline(&extended.id, 600.0).await;
    let past = world.set_deadline(&forward.id, -1.0).await;
    world.becomes(&forward.id, "closed").await;
    world.becomes(&untouched.id, "closed").await;
    eventually("the extended one is held again", async || {
        let counted = worker.counted();
        (counted.unchanged, counted.waiting) == (1, 1)
    })
    .await;
    assert_eq!((world.status(&paid.id).await, world.status(&extended.id).await), ("paid".into(), "pending".into()));
    assert!(past < forward.deadline && later > extended.deadline);
    let sooner = world.set_deadline(&extended.id, 1.0).await;
    world.becomes(&extended.id, "closed").await;
    let early = format!("select count(*) from orders where id = '{}' and closed_at < '{sooner}'", extended.id);
    assert_eq!(world.number(&early).await, 0);
    relay.stop().await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_close_although_the_broker_hangs_up_while_they_are_held() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let (relay, worker) = (world.relay(), world.worker());
    for number in 0..20 {
        world.order("tea", Duration::from_millis(5_000 + number * 100)).await;
    }
    eventually("all are held", async || worker.counted().held_orders == 20).await;
    let name = |connection: &serde_json::Value| connection["name"].as_str().unwrap_or_default().to_owned();
    let connections = management(Method::GET, &["vhosts", &world.vhost, "connections"], None).await;
    for connection in connections.as_array().expect("a list") {
        management(Method::DELETE, &["connections", &name(connection)], None).await;
    }
    eventually("all are closed", async || worker.counted().closed == 20).await;
    assert_eq!(world.shelf("tea").await, (100, 0));
    relay.stop().await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// The broker parks a message after 20 deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_restarted_again_and_again_while_it_holds_parks_no_good_order() {
    const ORDERS: u32 = 12;
    let world = patient_world().await;
    for _ in 0..ORDERS {
        world.order("tea", Duration::from_mins(10)).await;
    }
    // Each has a message of its own.
    world.execute("update outbox set due_at = due_at + id * interval '3 seconds'").await;
    let relay = world.relay();
    for _ in 0..25 {
        let worker = world.worker();
        // A subscription that is being opened would outlive this crash, as it would not outlive a process.
        eventually("it holds them", async || {
            let counted = worker.counted();
            (counted.held_orders, counted.consumers_open) == (i64::from(ORDERS), 6)
        })
        .await;
        worker.crash().await;
    }
    world.execute("update orders set payment_deadline = clock_timestamp()").await;
    let worker = world.worker();
    eventually("all are closed", async || {
        world.number("select count(*) from orders where status = 'closed'").await == i64::from(ORDERS)
    })
    .await;
    world.foreign().await.queue_holds("overdue.v1.parked", 0).await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_that_are_held_keep_no_order_waiting_that_is_due() {
    let mut world = patient_world().await;
    let relay = world.relay();
    arm_unknown(&world, 200_000, "10 minutes").await;
    eventually("they are sent", async || relay.relayed().0 == 200_000).await;
    relay.stop().await;
    let worker = world.worker();
    eventually("what is over the bound goes on to a lane", async || {
        let counted = worker.counted();
        counted.held_orders + counted.sent_on as i64 == 200_000
    })
    .await;
    let held = worker.counted().held_orders;
    // Each pipeline has received some batches ahead when it sees that it is full.
    assert!((131_072..131_072 + 2 * 4 * 2_048 + 256).contains(&held), "{held}");
    world.lanes = Lanes::standard(&[]);
    let relay = world.relay();
    let order = world.order("tea", Duration::from_secs(1)).await;
    world.becomes(&order.id, "closed").await;
    let counted = worker.counted();
    assert_eq!((counted.orders, counted.closed, counted.held_orders), (1, 1, held), "{counted:?}");
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_much_later_goes_on_without_a_look_if_the_message_is_ours() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    let body = |id: &OrderId| {
        let due = Deadline::at(OffsetDateTime::now_utc() + Duration::from_mins(30));
        format!(r#"{{"v":1,"orders":[{{"id":"{id}","due":"{due}"}}]}}"#)
    };
    // Only relays and workers may write to this exchange.
    let ours = world.overdue_order("tea").await;
    let key = format!("{}.payment", Hop::Now);
    foreign.publish("overdue.lanes", &key, body(&ours.id).as_bytes(), BasicProperties::default()).await;
    foreign.queue_holds("overdue.v1.delay.30m", 1).await;
    eventually("it has gone on", async || worker.counted().sent_on == 1).await;
    assert_eq!(worker.counted().orders, 0);
    assert_eq!(world.status(&ours.id).await, "pending");
    // What others say of the time counts for nothing, whichever way they make it look.
    let mut forged = FieldTable::default();
    let mut death = FieldTable::default();
    death.insert("queue".into(), AMQPValue::LongString("overdue.v1.delay.30m".into()));
    death.insert("reason".into(), AMQPValue::LongString("expired".into()));
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    death.insert("exchange".into(), AMQPValue::LongString("overdue.lanes".into()));
    forged.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
    for headers in [FieldTable::default(), forged] {
        let order = world.overdue_order("tea").await;
        let properties = BasicProperties::default().with_headers(headers);
        foreign.publish("overdue.delay", "1s.payment", body(&order.id).as_bytes(), properties).await;
        world.becomes(&order.id, "closed").await;
    }
    worker.stop().await;
    world.close().await;
}

/// A deadline that a policy of somebody's pushes out of its lane is held, too, if it is soon.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_far_too_early_and_is_due_soon_is_held_and_not_sent_round() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let policy = json!({ "pattern": "[.]delay[.]", "definition": { "message-ttl": 20 }, "apply-to": "queues" });
    management(Method::PUT, &["operator-policies", &world.vhost, "tidy"], Some(policy)).await;
    let (relay, worker) = (world.relay(), world.worker());
    // Longer than the margin by less than a lane takes: it goes by a lane.
    let order = world.order("tea", Duration::from_millis(10_400)).await;
    world.becomes(&order.id, "closed").await;
    let counted = worker.counted();
    assert!(counted.messages <= 4, "{counted:?}");
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}
