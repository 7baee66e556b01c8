//! Thousands of orders, each with a schedule of its own that is drawn at random: when the customer pays, which calls go
//! wrong and how, which notifications come and how often, which messages come twice; while workers die. In the end
//! the gateway's ledger and the shop's books must agree, order by order.
//!
//! The seed is printed. `OVERDUE_TEST_SEED=<seed>` draws the same schedules again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_sim::Call::{self, Close, Query, Refund, RefundQuery};
use gateway_sim::{API_V3_KEY, APPID, MCHID, MERCHANT_SERIAL, Mishap, Signer, Simulator, State};
use tests::{Process, World, gateways, impatient, simulator, until_none_is_left};
use worker::GatewaySettings;

const ORDERS: usize = 2_000;

/// A small generator of random numbers (SplitMix64), so that a seed means the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn in_hundred(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()].clone()
    }
}

/// What happens to one order.
struct Schedule {
    id: String,
    plan: Vec<(Call, Mishap)>,
    /// How far the shop got with telling the gateway.
    prepay: &'static str,
    cancelled: bool,
    deliveries: u64,
    notifications: u64,
}

fn draw(random: &mut Random, number: usize) -> Schedule {
    let error = |status, code: &str| Mishap::Error(status, code.to_owned());
    let faults = [
        Mishap::LoseRequest,
        Mishap::LoseAnswer,
        Mishap::Html(502),
        Mishap::Empty(404),
        Mishap::Unsigned,
        Mishap::BadSignature,
        Mishap::Probe,
        Mishap::Stale,
        Mishap::OtherTrade,
        Mishap::UserPaying,
        Mishap::StaleRead,
        Mishap::Slow(100),
        error(500, "SYSTEM_ERROR"),
        error(400, "TRADE_ERROR"),
        error(202, "USERPAYING"),
    ];
    let mut plan = Vec::new();
    let calls =
        [Query(1), Query(2), Query(3), Query(4), Query(5), Close(1), Close(2), Refund(1), Refund(2), RefundQuery(1)];
    for call in calls {
        if random.in_hundred(25) {
            let fault = match call {
                Close(_) if random.in_hundred(20) => Mishap::PretendToClose,
                Refund(_) if random.in_hundred(40) => Mishap::NotEnough,
                _ => random.pick(&faults),
            };
            plan.push((call, fault));
        }
    }
    if random.in_hundred(45) {
        let at = random.pick(&[Query(1), Query(2), Query(3), Close(1), Close(2)]);
        plan.push((at, random.pick(&[Mishap::PayBefore, Mishap::PayAfter])));
    }
    let (hidden, cancelled) = (random.in_hundred(10), random.in_hundred(10));
    if hidden {
        // The trade shows only at the second or third look. Not at the third where the order is cancelled: the second look
        // is the last, if it comes late.
        plan.retain(|(call, mishap)| {
            !matches!(call, Query(1 | 2)) || matches!(mishap, Mishap::PayBefore | Mishap::PayAfter)
        });
        plan.push((Query(1), Mishap::NotExist));
        if !cancelled && random.in_hundred(50) {
            plan.push((Query(2), Mishap::NotExist));
        }
    }
    Schedule {
        id: format!("schedule-{number}"),
        plan,
        prepay: if hidden || random.in_hundred(20) { "attempted" } else { "created" },
        cancelled,
        deliveries: 1 + random.below(3),
        notifications: if random.in_hundred(60) { 1 + random.below(3) } else { 0 },
    }
}

/// A worker in a process of its own, so that it can be killed, with waits that suit a test.
fn start(world: &World, simulator: &Simulator) -> Process {
    let keys = simulator.keys();
    let (key, certificate) = (keys.merchant_key_file(), keys.certificate_file(Signer::Certificate1));
    let mut command = world.command(&["run", "--only", "worker", "--log", "warn"]);
    for (setting, value) in [
        ("--wechat-base-url", simulator.url().as_str()),
        ("--wechat-mchid", MCHID),
        ("--wechat-appid", APPID),
        ("--wechat-serial-no", MERCHANT_SERIAL),
        ("--wechat-api-v3-key", API_V3_KEY),
        ("--wechat-private-key-file", &key.to_string_lossy()),
        ("--wechat-certificate-files", &certificate.to_string_lossy()),
        ("--wechat-min-close-age", "0s"),
        ("--gateway-calls-per-second-max", "0"),
        ("--gateway-call-timeout", "2s"),
        ("--gateway-attempts-max", "500"),
        ("--gateway-back-off-initial", "100ms"),
        ("--gateway-back-off-max", "500ms"),
        ("--gateway-hold", "500ms"),
        ("--gateway-user-paying-wait", "500ms"),
        ("--gateway-not-found-gap", "500ms"),
        ("--gateway-look-again-after", "6s"),
    ] {
        command.args([setting, value]);
    }
    world.start_command(command)
}

/// Writes the orders as a shop would, and opens their trades.
async fn play(world: &World, simulator: &Simulator, schedules: &[Schedule]) {
    world
        .execute(&format!(
            "insert into orders (id, amount_minor, currency, payment_deadline) select 'schedule-' || g, 1999, 'CNY', clock_timestamp() from generate_series(0, {ORDERS} - 1) g;
             insert into order_items select 'schedule-' || g, 'tea', 1 from generate_series(0, {ORDERS} - 1) g;
             insert into payments (order_id, gateway) select 'schedule-' || g, 'wechat' from generate_series(0, {ORDERS} - 1) g;
             update inventory set available = available - {ORDERS}, reserved = {ORDERS}"
        ))
        .await;
    for schedule in schedules {
        simulator.ledger().open(&schedule.id, 1999, "CNY");
        for (call, mishap) in &schedule.plan {
            simulator.ledger().plan(&schedule.id, *call, mishap.clone());
        }
    }
    let of = |wanted: fn(&Schedule) -> bool| {
        let ids: Vec<&str> =
            schedules.iter().filter(|schedule| wanted(schedule)).map(|schedule| schedule.id.as_str()).collect();
        ids.join("','")
    };
    let (created, cancelled) = (of(|schedule| schedule.prepay == "created"), of(|schedule| schedule.cancelled));
    world
        .execute(&format!(
            "update payments set prepay = 'created' where order_id in ('{created}');
             update orders set status = 'cancelled' where id in ('{cancelled}');
             update inventory set available = available + c, reserved = reserved - c
             from (select count(*) as c from orders where status = 'cancelled') counted"
        ))
        .await;
}

/// Sends the notifications that come, as often as they come, until told to stop.
async fn notify(
    world: &World,
    simulator: &Simulator,
    schedules: &[Schedule],
    settings: GatewaySettings,
    stop: &AtomicBool,
) {
    let notifications = world.notifications(&gateways(simulator, settings));
    let mut left: HashMap<&str, u64> =
        schedules.iter().map(|schedule| (schedule.id.as_str(), schedule.notifications)).collect();
    while !stop.load(Ordering::Relaxed) {
        for (id, count) in left.iter_mut().filter(|(_, count)| **count > 0) {
            if simulator.ledger().trade(id).is_some_and(|trade| trade.state == State::Paid) {
                let (headers, body) = simulator.notification(id);
                // What cannot be taken now comes again.
                if notifications.take("wechat", &headers, &body).await.is_ok() {
                    *count -= 1;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the gateway holds and the shop does not account for, order by order.
async fn disagreements(world: &World, simulator: &Simulator) -> Vec<String> {
    let rows: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select o.id, o.status, r.state from orders o left join refunds r on r.order_id = o.id order by o.id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let refunds = simulator.ledger().refunds();
    let mut wrong = Vec::new();
    for (id, status, refund) in rows {
        let trade = simulator.ledger().trade(&id).unwrap();
        let gone = status == "closed" || status == "cancelled";
        let refunded = refunds.values().filter(|refund| refund.trade_no == id).count();
        let agree = match trade.state {
            State::NotPaid => false,
            State::Closed => gone && refund.is_none() && refunded == 0,
            State::Paid => status == "paid" && refund.is_none() && refunded == 0,
            State::Refunded => gone && refund.as_deref() == Some("succeeded") && refunded == 1,
        };
        if !agree {
            wrong.push(format!(
                "{id} is {status} here (refund {refund:?}) and {:?} there, plan {:?}",
                trade.state, trade.plan
            ));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_random_schedules_end_with_ledger_and_books_agreeing() {
    let seed = match std::env::var("OVERDUE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("OVERDUE_TEST_SEED is a whole number"),
        Err(_) => u64::try_from(uuid::Uuid::now_v7().as_u128() >> 64).unwrap(),
    };
    println!("OVERDUE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let schedules: Vec<Schedule> = (0..ORDERS).map(|number| draw(&mut random, number)).collect();
    let (world, simulator) = (Arc::new(World::new().await), Arc::new(simulator().await));
    world.stock("tea", 10_000).await;
    play(&world, &simulator, &schedules).await;
    // Nothing is to be parked: whatever is drawn comes to an end by itself.
    let settings = GatewaySettings { attempts_max: 500, look_again_after: Duration::from_secs(6), ..impatient() };
    let worker = || start(&world, &simulator);
    let mut workers = vec![worker(), worker()];

    let mut deliveries: Vec<&str> = schedules
        .iter()
        .flat_map(|schedule| std::iter::repeat_n(schedule.id.as_str(), usize::try_from(schedule.deliveries).unwrap()))
        .collect();
    for place in (1..deliveries.len()).rev() {
        deliveries.swap(place, usize::try_from(random.below(place as u64 + 1)).unwrap());
    }
    let stop = AtomicBool::new(false);
    let notifying = notify(&world, &simulator, &schedules, settings, &stop);
    let driving = async {
        let foreign = world.foreign().await;
        let mut crashes = 0;
        for chunk in deliveries.chunks(40) {
            let entries: Vec<String> = chunk.iter().map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
            foreign.due_now(format!(r#"{{"v":1,"orders":[{}]}}"#, entries.join(",")).as_bytes()).await;
            if random.in_hundred(10) && crashes < 8 {
                crashes += 1;
                let victim = usize::try_from(random.below(2)).unwrap();
                let fresh = worker();
                std::mem::replace(&mut workers[victim], fresh).kill().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let agree = format!("ledger and books agree (OVERDUE_TEST_SEED={seed})");
        until_none_is_left(&agree, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let wrong = disagreements(&world, &simulator).await;
            println!("{} orders do not agree yet, such as: {:?}", wrong.len(), wrong.first());
            wrong.len() as u64
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        crashes
    };
    let ((), crashes) = tokio::join!(notifying, driving);

    let paid = world.number("select count(*) from orders where status = 'paid'").await;
    let refunded = world.number("select count(*) from refunds where state = 'succeeded'").await;
    println!("{ORDERS} schedules, {crashes} crashes: {paid} paid, {refunded} refunded, the others closed or cancelled");
    assert_eq!(world.shelf("tea").await, (10_000 - paid, 0), "OVERDUE_TEST_SEED={seed}");
    assert_eq!(world.number("select count(*) from refunds where state <> 'succeeded'").await, 0);
    world.audit().await;
    for mut worker in workers {
        worker.terminate().await;
        assert!(worker.ended().await.success());
    }
    world.foreign().await.queue_holds("overdue.v1.parked", 0).await;
    Arc::into_inner(world).expect("nobody else has it").close().await;
}
