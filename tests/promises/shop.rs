//! Creating, paying and cancelling: refused cleanly, and stock exact under whatever mix.

use std::time::Duration;

use futures_util::future::join_all;
use shop::OrderError;
use tests::{World, eventually};

const LATER: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn too_little_stock_is_a_clear_error_and_changes_nothing() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    world.stock("cup", 1).await;
    let wanted = world.new_order(&[("tea", 2), ("cup", 1), ("cup", 1)], LATER);
    let error = world.create(&wanted).await.unwrap_err();
    assert!(matches!(&error, OrderError::NotEnoughStock { sku, wanted: 2, available: 1 } if sku == "cup"), "{error}");
    assert_eq!(error.to_string(), "not enough stock of cup: 2 wanted, 1 available");
    let unknown = world.new_order(&[("tea", 1), ("moon", 1)], LATER);
    assert!(matches!(world.create(&unknown).await, Err(OrderError::UnknownSku(sku)) if sku == "moon"));
    for table in ["orders", "order_items", "order_log", "outbox"] {
        assert_eq!(world.number(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    assert_eq!((world.shelf("tea").await, world.shelf("cup").await), ((10, 0), (1, 0)));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once_and_a_settled_order_stays_settled() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let new = world.new_order(&[("tea", 1)], LATER);
    world.create(&new).await.unwrap();
    assert!(matches!(world.create(&new).await, Err(OrderError::Exists(_))));
    assert_eq!(world.shelf("tea").await, (9, 1));
    world.pay(&new.id, None).await.unwrap();
    assert!(matches!(world.pay(&new.id, None).await, Err(OrderError::NotPending { .. })));
    assert!(matches!(world.cancel(&new.id).await, Err(OrderError::NotPending { .. })));
    assert_eq!(world.shelf("tea").await, (9, 0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_deadline_no_payment_is_taken() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let order = world.overdue_order("tea").await;
    assert!(matches!(world.pay(&order.id, None).await, Err(OrderError::Overdue { .. })));
    assert_eq!((world.status(&order.id).await.as_str(), world.shelf("tea").await), ("pending", (9, 1)));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_piece_is_sold_once() {
    let world = World::new().await;
    world.stock("last", 1).await;
    let new: Vec<_> = (0..8).map(|_| world.new_order(&[("last", 1)], LATER)).collect();
    let created = join_all(new.iter().map(|new| world.create(new))).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 1);
    assert_eq!(world.shelf("last").await, (0, 1));
    world.close().await;
}

/// Orders that are paid, cancelled, extended, duplicated and left alone, all at the same time and around their
/// deadlines. Print the seed, and the same mix can be run again with OVERDUE_TEST_SEED.
#[tokio::test(flavor = "multi_thread")]
async fn stock_is_exact_under_a_random_mix() {
    let seed: u64 = std::env::var("OVERDUE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| uuid::Uuid::now_v7().as_u64_pair().1);
    println!("OVERDUE_TEST_SEED={seed}");
    let world = World::with_timeouts(&["2s", "3s"]).await;
    let skus: Vec<String> = (0..7).map(|number| format!("sku-{number}")).collect();
    for sku in &skus {
        world.stock(sku, 10_000).await;
    }
    let relays = [world.relay(), world.relay()];
    let workers = [world.worker(), world.worker()];
    let foreign = world.foreign().await;
    let customer = async |number: u64| {
        let mut dice = Dice(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let items: Vec<(&str, i64)> =
            (0..=dice.roll(3)).map(|_| (skus[dice.roll(7) as usize].as_str(), 1 + dice.roll(4) as i64)).collect();
        let order = world.order_of(&items, Duration::from_secs(2 + dice.roll(2))).await;
        // Some act well in time, some about when the deadline passes, some after it.
        tokio::time::sleep(Duration::from_millis(dice.roll(3500))).await;
        match dice.roll(5) {
            0 => drop(world.pay(&order.id, None).await),
            1 => drop(world.cancel(&order.id).await),
            2 => {
                let extend = "update orders set payment_deadline = payment_deadline + interval '1 second' where id = $1 and status = 'pending'";
                sqlx::query(extend).bind(order.id.as_str()).execute(&world.pool).await.unwrap();
            }
            3 => foreign.due_now(order.id.as_str().as_bytes()).await,
            _ => {}
        }
    };
    join_all((0..400).map(customer)).await;
    eventually("every order is settled", async || {
        world.number("select count(*) from orders where status = 'pending'").await == 0
    })
    .await;
    world.audit().await;
    let shelves = world.number("select sum(available)::bigint from inventory").await;
    let sold = world.number("select coalesce(sum(i.quantity), 0)::bigint from order_items i join orders o on o.id = i.order_id where o.status = 'paid'").await;
    assert_eq!(shelves + sold, 70_000);
    world.no_deadlocks().await;
    for role in relays.into_iter().chain(workers) {
        role.stop().await;
    }
    world.close().await;
}

/// Small, seeded random numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}
