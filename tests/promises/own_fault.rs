//! One thing's fault is one thing's fault: a row, a lock, a trigger, a set-up.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{World, eventually};

/// A trigger of the shop that raises this, with this code, when an order of this customer's is closed.
fn trigger(code: &str) -> String {
    format!(
        "create function shop_rule() returns trigger language plpgsql as $$
         begin raise exception 'no goods for this one' using errcode = '{code}'; end $$;
         create trigger shop_rule before update of status on orders for each row
             when (old.amount_minor = 666) execute function shop_rule()"
    )
}

async fn make_bad(world: &World, order: &shop::Order) {
    let sql = "update orders set amount_minor = 666 where id = $1";
    sqlx::query(sql).bind(order.id.as_str()).execute(&world.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_which_a_trigger_raises_whatever_code_is_parked_alone() {
    for code in ["SH001", "21000", "P0002", "42501", "42P01", "XX000", "54000", "0A000"] {
        let world = World::new().await;
        world.stock("tea", 500).await;
        world.execute(&trigger(code)).await;
        let mut good = Vec::new();
        let first_bad = world.overdue_order("tea").await;
        for _ in 0..40 {
            good.push(world.overdue_order("tea").await);
        }
        let second_bad = world.overdue_order("tea").await;
        for bad in [&first_bad, &second_bad] {
            make_bad(&world, bad).await;
        }
        let foreign = world.foreign().await;
        for order in [&first_bad].into_iter().chain(&good).chain([&second_bad]) {
            foreign.due_now(order.id.as_str().as_bytes()).await;
        }
        let worker = world.worker();
        for order in &good {
            world.becomes(&order.id, "closed").await;
        }
        for parked in foreign.parked(2).await {
            assert_eq!(parked.reason(), "refused_by_database", "{code}");
            let detail = parked.header("x-overdue-detail").unwrap();
            assert!(detail.contains("no goods for this one") && detail.contains(code), "{code}: {detail}");
        }
        assert_eq!(world.shelf("tea").await, (498, 2), "{code}");
        assert_eq!(worker.counted().held, 0, "{code}: nothing was taken for an outage");
        worker.stop().await;
        world.close().await;
    }
}

/// Codes that mean an outage when the server raises them, and nothing of the kind when a trigger does.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_trigger_pretends_an_outage_delays_no_other() {
    for code in ["40001", "53000", "58000", "57000"] {
        let world = World::new().await;
        world.stock("tea", 500).await;
        world.execute(&trigger(code)).await;
        let bad = world.overdue_order("tea").await;
        make_bad(&world, &bad).await;
        let mut good = Vec::new();
        for _ in 0..40 {
            good.push(world.overdue_order("tea").await);
        }
        let foreign = world.foreign().await;
        for order in [&bad].into_iter().chain(&good) {
            foreign.due_now(order.id.as_str().as_bytes()).await;
        }
        let worker = world.worker();
        for order in &good {
            world.becomes(&order.id, "closed").await;
        }
        assert_eq!(world.status(&bad.id).await, "pending");
        eventually("the bad one is looked at again", async || worker.counted().looked_at_again > 0).await;
        worker.stop().await;
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_order_fails_alike_nothing_is_parked_and_all_close_when_it_is_mended() {
    let broken = [
        // Wrong whatever the order.
        ("alter table order_log rename to gone", "alter table gone rename to order_log"),
        ("alter table orders rename column closed_at to shut", "alter table orders rename column shut to closed_at"),
        // Wrong with each row.
        (
            "create function never() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
             create trigger never before update of status on orders for each row execute function never()",
            "drop trigger never on orders",
        ),
        (
            "create function never() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger never before update of status on orders for each row execute function never()",
            "drop trigger never on orders",
        ),
    ];
    for (breaks, mends) in broken {
        let world = World::new().await;
        world.stock("tea", 500).await;
        let foreign = world.foreign().await;
        let mut orders = Vec::new();
        for _ in 0..60 {
            orders.push(world.overdue_order("tea").await);
            foreign.due_now(orders.last().unwrap().id.as_str().as_bytes()).await;
        }
        world.execute(breaks).await;
        let process = world.start(&["run", "--only", "worker", "--listen", "127.0.0.1:0"]);
        let base = process.http_base().await;
        let ready = async || {
            let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        eventually("it is not ready, and says why", async || {
            let (status, text) = ready().await;
            status == 503
                && ["order_log", "closed_at", "not today", "changed nothing"].iter().any(|word| text.contains(word))
        })
        .await;
        foreign.queue_holds("overdue.v1.parked", 0).await;
        world.execute(mends).await;
        for order in &orders {
            world.becomes(&order.id, "closed").await;
        }
        eventually("it is ready again", async || ready().await.0 == 200).await;
        foreign.queue_holds("overdue.v1.parked", 0).await;
        process.terminate().await;
        world.close().await;
    }
}

async fn session(world: &World, locks: &str) -> PgConnection {
    let mut session = PgConnection::connect(&world.database_url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {locks}"))).execute(&mut session).await.unwrap();
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_whose_stock_is_free_do_not_wait_for_those_whose_stock_is_locked() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    world.stock("salt", 500).await;
    let foreign = world.foreign().await;
    let (mut free, mut held) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        free.push(world.overdue_order("tea").await);
        held.push(world.overdue_order("salt").await);
    }
    let mut session = session(&world, "select from inventory where sku_id = 'salt' for update").await;
    let worker = world.worker();
    for (one, other) in free.iter().zip(&held) {
        foreign.due_now(other.id.as_str().as_bytes()).await;
        foreign.due_now(one.id.as_str().as_bytes()).await;
    }
    for order in &free {
        world.becomes(&order.id, "closed").await;
    }
    for order in &held {
        assert_eq!(world.status(&order.id).await, "pending", "{}", order.id);
    }
    sqlx::raw_sql("rollback").execute(&mut session).await.unwrap();
    for order in &held {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!((world.shelf("tea").await, world.shelf("salt").await), ((500, 0), (500, 0)));
    drop(session);
    worker.stop().await;
    world.close().await;
}

/// A row of `payments` that is locked, and a trigger that takes long, hold up their own order alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_takes_long_for_whatever_reason_delays_no_other() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    world
        .execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(20); return new; end $$;
             create trigger slow before update of status on orders for each row when (old.amount_minor = 666) execute function slow()",
        )
        .await;
    let slow = world.overdue_order("tea").await;
    make_bad(&world, &slow).await;
    let foreign = world.foreign().await;
    foreign.due_now(slow.id.as_str().as_bytes()).await;
    let mut good = Vec::new();
    for _ in 0..30 {
        good.push(world.overdue_order("tea").await);
        foreign.due_now(good.last().unwrap().id.as_str().as_bytes()).await;
    }
    let worker = world.worker();
    for order in &good {
        world.becomes(&order.id, "closed").await;
    }
    // Had they waited for it, it would be closed, too: a statement may take longer than the trigger does.
    assert_eq!(world.status(&slow.id).await, "pending");
    worker.stop().await;
    world.close().await;
}
