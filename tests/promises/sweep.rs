//! The sweep: what no message has brought is found all the same, by one process at a time, without a broker.

use std::time::Duration;

use book::Timers;
use database::Purpose;
use gateway_sim::Mishap;
use shop::NewOrder;
use tests::{Counted, Process, World, eventually, gateways, impatient, simulator};
use tokio_util::sync::CancellationToken;
use worker::{GatewaySettings, Gateways, PipelineSettings, SharedTimers, Sweep, SweepSettings, WorkerMetrics};

const AT_ONCE: SweepSettings = SweepSettings {
    every: Duration::from_millis(50),
    grace: Duration::ZERO,
    page_orders: 100,
    keep_timers: Duration::from_hours(1),
};

/// A sweep inside the test.
struct Sweeping {
    metrics: WorkerMetrics,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn sweep(world: &World, gateways: &Gateways, settings: SweepSettings, shutdown: CancellationToken) -> Sweep {
    let client = world.client(2, Purpose::Settle);
    let timers = SharedTimers::new(Timers::new(client.clone()), None, gateways.metrics(), shutdown.clone());
    Sweep::new(worker::SharedBook::new(world.book()), timers, client, gateways, settings, shutdown)
}

impl Sweeping {
    fn start(world: &World, gateways: Gateways, settings: SweepSettings) -> Self {
        let shutdown = CancellationToken::new();
        let sweep = sweep(world, &gateways, settings, shutdown.clone());
        Self { metrics: gateways.metrics(), shutdown, task: tokio::spawn(sweep.run()) }
    }

    fn counted(&self) -> Counted {
        Counted::by(&self.metrics)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// Waits until so many rounds more have ended.
async fn rounds(sweep: &Sweeping, count: u64) {
    let begun = sweep.counted().sweep_rounds;
    eventually("more rounds have ended", async || sweep.counted().sweep_rounds >= begun + count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_no_message_brings_are_closed_page_by_page() {
    let world = World::new().await;
    world.stock("tea", 1_000).await;
    let not_due = world.order("tea", Duration::from_secs(3600)).await;
    // More of the same instant than a page holds, so that a page ends in the middle of them.
    world
        .execute(
            "with new as (
                 insert into orders (id, amount_minor, currency, payment_deadline)
                 select 'p-' || n, 1, 'CNY', case when n <= 350 then now() - interval '1 hour' else now() - n * interval '1 second' end
                 from generate_series(1, 500) n returning id)
             insert into order_items select id, 'tea', 1 from new;
             update inventory set available = available - 500, reserved = reserved + 500",
        )
        .await;
    let sweep = Sweeping::start(&world, Gateways::none(), AT_ONCE);
    eventually("all are closed", async || {
        world.number("select count(*) from orders where status = 'closed'").await == 500
    })
    .await;
    rounds(&sweep, 1).await;
    assert_eq!((sweep.counted().rescued, sweep.counted().stuck), (500, 0));
    assert_eq!(world.status(&not_due.id).await, "pending");
    assert_eq!(world.number("select count(*) from order_log where actor = 'sweep'").await, 500);
    assert_eq!(world.shelf("tea").await, (999, 1));
    sweep.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_grace_an_order_is_left_to_its_message() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let sweep = Sweeping::start(&world, Gateways::none(), SweepSettings { grace: Duration::from_secs(600), ..AT_ONCE });
    rounds(&sweep, 3).await;
    assert_eq!(world.status(&order.id).await, "pending");
    world.set_deadline(&order.id, -601.0).await;
    world.becomes(&order.id, "closed").await;
    sweep.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_asks_gateways_and_one_that_is_down_stops_nobody_else() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 1_000).await;
    let (paid, unpaid) = (world.order_at_gateway(&simulator, &[]).await, world.order_at_gateway(&simulator, &[]).await);
    assert!(simulator.ledger().pay(paid.id.as_str()));
    simulator.outage(Some(Mishap::Error(503, "SYSTEM_ERROR".to_owned())));
    let plain = world.overdue_order("tea").await;
    let sweep = Sweeping::start(&world, gateways(&simulator, impatient()), AT_ONCE);
    world.becomes(&plain.id, "closed").await;
    eventually("two orders are stuck", async || sweep.counted().stuck == 2).await;
    let calls = sweep.counted().gateway_calls;
    rounds(&sweep, 5).await;
    assert!(sweep.counted().gateway_calls <= calls + 1, "not asked for the same orders in each round");
    assert_eq!(
        (world.status(&paid.id).await, world.status(&unpaid.id).await),
        ("pending".to_owned(), "pending".to_owned())
    );
    sweep.stop().await;

    // Whoever takes over begins anew.
    simulator.outage(None);
    let sweep = Sweeping::start(&world, gateways(&simulator, impatient()), AT_ONCE);
    world.becomes(&paid.id, "paid").await;
    world.becomes(&unpaid.id, "closed").await;
    // Their deadlines lay in the past from the first, so no message of theirs was lost.
    eventually("both are counted", async || sweep.counted().moved == 2 && sweep.counted().stuck == 0).await;
    assert_eq!(sweep.counted().rescued, 0);
    sweep.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trade_that_was_missing_when_the_sweep_closed_its_order_is_looked_for_once_more() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 5).await;
    let order = world.order_without_trade("wechat").await;
    let gateways = gateways(&simulator, impatient());
    let sweep = Sweeping::start(&world, gateways.clone(), AT_ONCE);
    world.becomes(&order.id, "closed").await;
    let armed = format!("select count(*) from outbox where event is null and order_id = '{}'", order.id);
    eventually("a second look is armed", async || world.number(&armed).await == 1).await;
    sweep.stop().await;
    // The prepay was on its way, and the customer has paid.
    simulator.ledger().open(order.id.as_str(), 1999, "CNY");
    assert!(simulator.ledger().pay(order.id.as_str()));
    let (relay, worker) = (world.relay(), world.worker_asking(gateways, PipelineSettings::default()));
    eventually("the money goes back", async || {
        world.number("select count(*) from refunds where state = 'succeeded'").await == 1
    })
    .await;
    worker.stop().await;
    relay.stop().await;
    world.close().await;
}

fn sweeper(world: &World) -> Process {
    let mut command = world.command(&["run", "--only", "sweep", "--sweep-every", "200ms", "--sweep-grace", "0s"]);
    // No broker is needed.
    command.env("OVERDUE_AMQP_URL", "amqp://nobody:nothing@127.0.0.1:1/none");
    world.start_command(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_sweeps_at_a_time_and_another_takes_over_when_it_is_killed() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let first = sweeper(&world);
    first.says("sweeping").await;
    let second = sweeper(&world);
    second.says("running").await;
    let order = world.overdue_order("tea").await;
    world.becomes(&order.id, "closed").await;
    assert!(!second.log_text().contains("sweeping: no other"), "one at a time");
    first.kill().await;
    second.says("sweeping: no other process does").await;
    let order = world.overdue_order("tea").await;
    world.becomes(&order.id, "closed").await;
    second.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lead_is_taken_up_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let sweep = Sweeping::start(&world, Gateways::none(), AT_ONCE);
    rounds(&sweep, 1).await;
    world.disconnect_everybody().await;
    let order: shop::Order = {
        let new: NewOrder = world.new_order(&[("tea", 1)], Duration::from_millis(1));
        world.create(&new).await.unwrap()
    };
    world.becomes(&order.id, "closed").await;
    sweep.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_look_is_armed_with_the_close_itself() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 5).await;
    let order = world.order_without_trade("wechat").await;
    // Whatever comes after the close never happens.
    let gate = world.gate("update on payments").await;
    let doomed = tokio::spawn({
        let shutdown = CancellationToken::new();
        sweep(&world, &gateways(&simulator, impatient()), AT_ONCE, shutdown).run()
    });
    world.becomes(&order.id, "closed").await;
    doomed.abort();
    let armed = format!("select count(*) from outbox where event is null and order_id = '{}'", order.id);
    assert_eq!(world.number(&armed).await, 1);
    gate.open().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_locked_order_holds_up_nobody_else() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    let held = world.overdue_order("tea").await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(world.overdue_order("tea").await);
    }
    // Somebody looks at it in psql, and goes to lunch.
    let mut person = world.pool.begin().await.unwrap();
    sqlx::query("select 1 from orders where id = $1 for update")
        .bind(held.id.as_str())
        .execute(&mut *person)
        .await
        .unwrap();
    let sweep = Sweeping::start(&world, Gateways::none(), AT_ONCE);
    for order in &others {
        world.becomes(&order.id, "closed").await;
    }
    eventually("the locked one is remembered", async || sweep.counted().stuck == 1).await;
    sweep.stop().await;
    // The same by messages: the locked one goes round again, the others are closed.
    let more = world.overdue_order("tea").await;
    let worker = world.worker();
    let body = format!(r#"{{"v":1,"orders":[{{"id":"{}"}},{{"id":"{}"}}]}}"#, held.id, more.id);
    world.foreign().await.due_now(body.as_bytes()).await;
    world.becomes(&more.id, "closed").await;
    eventually("it goes round again", async || worker.counted().looked_at_again == 1).await;
    person.rollback().await.unwrap();
    world.becomes(&held.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (500, 0));
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_rows_that_are_no_orders_of_ours_is_passed_over() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    world
        .execute(
            "alter table orders drop constraint orders_id_check;
             insert into orders (id, amount_minor, currency, payment_deadline)
             select 'ä' || n, 1, 'CNY', now() - interval '1 day' from generate_series(1, 250) n",
        )
        .await;
    let sweep = Sweeping::start(&world, Gateways::none(), AT_ONCE);
    world.becomes(&order.id, "closed").await;
    sweep.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_gateway_delays_the_sweep_of_nobody_else() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 500).await;
    let slow = world.order_at_gateway(&simulator, &[]).await;
    simulator.delay(Duration::from_secs(20));
    let settings = GatewaySettings { call_timeout: Duration::from_secs(30), ..impatient() };
    let sweep = Sweeping::start(&world, gateways(&simulator, settings), AT_ONCE);
    eventually("the gateway is being asked", async || simulator.statistics().calls == 1).await;
    let plain = world.overdue_order("tea").await;
    world.becomes(&plain.id, "closed").await;
    assert_eq!(world.status(&slow.id).await, "pending");
    sweep.stop().await;
    world.close().await;
}
