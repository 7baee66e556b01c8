//! One thing's fault is one thing's fault: a row, a lock, a trigger, a set-up.

use book::{Actor, Closing, ItemReply};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{World, eventually, until_none_is_left};

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
        }
        let process = world.start(&["run", "--only", "worker", "--listen", "127.0.0.1:0"]);
        let base = process.http_base().await;
        process.says("consuming").await;
        world.execute(breaks).await;
        for order in &orders {
            foreign.due_now(order.id.as_str().as_bytes()).await;
        }
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
        let parked = async || world.number("select count(*) from parked").await;
        assert_eq!(parked().await, 0);
        world.execute(mends).await;
        let pending = async || world.number("select count(*) from orders where status <> 'closed'").await as u64;
        until_none_is_left("all orders are closed", pending).await;
        eventually("it is ready again", async || ready().await.0 == 200).await;
        assert_eq!(parked().await, 0);
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

/// In one call, however many there are: to split them until each stands alone would wait for each lock by itself.
#[tokio::test(flavor = "multi_thread")]
async fn one_call_closes_what_is_free_and_names_what_is_locked() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    world.stock("salt", 500).await;
    let mut orders = Vec::new();
    for sku in ["tea", "salt", "tea", "salt", "tea"] {
        orders.push(world.overdue_order(sku).await);
    }
    let session = session(
        &world,
        &format!(
            "select from inventory where sku_id = 'salt' for update; select from orders where id = '{}' for update",
            orders[4].id
        ),
    )
    .await;
    let closing = |order: &shop::Order| Closing {
        id: order.id.clone(),
        deadline: order.deadline,
        revision: None,
        payments: Vec::new(),
        recheck: None,
    };
    let closings: Vec<Closing> = orders.iter().map(closing).collect();
    let reply = world.book().settle(&closings, &Actor::on_timeout("test"), None).await.unwrap();
    let done: Vec<bool> = orders.iter().map(|order| matches!(reply.items[&order.id], ItemReply::Done(_))).collect();
    assert_eq!(done, [true, false, true, false, false], "{:?}", reply.items);
    assert!(
        orders.iter().zip(done).all(|(order, done)| done || matches!(reply.items[&order.id], ItemReply::Locked(_)))
    );
    drop(session);
    world.close().await;
}

/// A trigger that takes long holds up its own order alone.
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

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_other_types_work_or_are_named_at_the_start() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    world
        .execute(
            "create type order_state as enum ('pending', 'paid', 'cancelled', 'closed');
             alter table orders drop constraint orders_status_check, drop constraint orders_check, drop constraint orders_check1,
                 drop constraint orders_check2, alter column status drop default;
             drop trigger order_moved on orders; drop trigger order_ended on orders;
             drop index orders_pending_by_deadline;
             alter table orders alter column status type order_state using status::order_state,
                 alter column status set default 'pending', alter column amount_minor type integer;
             create index orders_pending_by_deadline on orders (payment_deadline, id) where status = 'pending';
             alter table inventory alter column available type numeric, alter column reserved type numeric;
             alter table order_items alter column quantity type numeric",
        )
        .await;
    let order = "insert into orders (id, amount_minor, currency, payment_deadline) values ('A-1', 1, 'CNY', now() - interval '1 s');
                 insert into order_items (order_id, sku_id, quantity) values ('A-1', 'tea', 1.2);
                 update inventory set available = available - 1.2, reserved = reserved + 1.2";
    world.execute(order).await;
    let process = world.start(&["run", "--only", "worker"]);
    world.foreign().await.due_now(b"A-1").await;
    eventually("it closes, and every fraction comes back", async || {
        world
            .number(
                "select count(*) from orders, inventory where status = 'closed' and available = 100 and reserved = 0",
            )
            .await
            == 1
    })
    .await;
    process.terminate().await;
    assert_eq!(world.overdue(&["audit"]).await.status.code(), Some(0));

    for (change, name) in [
        (
            "alter table orders alter column payment_deadline type timestamp",
            "orders.payment_deadline is of the type timestamp",
        ),
        (
            "alter table inventory alter column available type bigint",
            "order_items.quantity is numeric and inventory.available is not",
        ),
        ("alter table orders rename column currency to cur", "orders.currency is missing"),
    ] {
        world.execute(change).await;
        for arguments in [&["run", "--only", "worker"][..], &["audit"]] {
            let output = world.overdue(arguments).await;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{arguments:?}: {said}");
            assert!(said.contains(name), "{arguments:?}: {said}");
        }
    }
    world.close().await;
}

/// Deadlines as far back as a database can hold: they have passed.
#[tokio::test(flavor = "multi_thread")]
async fn orders_with_deadlines_at_the_edge_of_time_close() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    world.execute("alter table orders drop constraint orders_payment_deadline_check").await;
    let foreign = world.foreign().await;
    let worker = world.worker();
    for deadline in ["-infinity", "0001-01-01", "4712-01-01 BC", "1900-01-01", "1999-12-31"] {
        let order = world.overdue_order("tea").await;
        let sql = "update orders set payment_deadline = $2::text::timestamptz where id = $1";
        sqlx::query(sql).bind(order.id.as_str()).bind(deadline).execute(&world.pool).await.unwrap();
        foreign.due_now(order.id.as_str().as_bytes()).await;
        world.becomes(&order.id, "closed").await;
    }
    worker.stop().await;
    world.close().await;
}
