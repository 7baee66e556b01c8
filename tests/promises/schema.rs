//! The schema refuses nonsense, and what is asked of it often is found by its keys, however tables are laid out.

use std::time::Duration;

use database::Purpose;
use sqlx::AssertSqlSafe;
use tests::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    let cases = [
        "update orders set status = 'closed'",
        "update orders set closed_at = now()",
        "update orders set status = 'paid'",
        "update orders set status = 'lost'",
        "update orders set amount_minor = -1",
        "update orders set currency = 'yuan'",
        "update orders set transaction_id = 'x'",
        "update orders set payment_deadline = 'infinity'",
        "insert into orders (id, amount_minor, currency, payment_deadline) values ('a b', 1, 'CNY', now())",
        "update order_items set quantity = 0",
        "update inventory set reserved = reserved - 2",
        "update inventory set available = -1",
        "insert into order_log (order_id, from_status, to_status, reason, actor) values ('x', 'paid', 'paid', 'r', 'a')",
        "insert into outbox (order_id, due_at, event) values ('x', now(), 'order.closed')",
        "insert into outbox (order_id, due_at, event, event_id, data) values ('x', now(), 'order.eaten', 'e', '{}')",
        "delete from inventory",
        "insert into payments (order_id, gateway, prepay) values ('x', 'wechat', 'perhaps')",
        "insert into payments (order_id, gateway, state) values ('x', 'wechat', 'paid')",
        "insert into payments (order_id, gateway) values ('x', '')",
        "insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state)
         values ('r', 'x', 'wechat', 'x', 't', 1, 'CNY', 'late', 'succeeded')",
    ];
    for case in cases {
        let refused = sqlx::query(AssertSqlSafe(case)).execute(&world.pool).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert!(code.is_some_and(|code| code.starts_with("23")), "{case}: {refused}");
    }
    assert_eq!(world.status(&order.id).await, "pending");
    world.close().await;
}

const STOCK: &str = include_str!("../../crates/book/src/postgres/stock.sql");

/// Everything that EXPLAIN says of a statement of the worker, on a connection of the worker.
async fn plan(world: &World, statement: &str, arguments: &str) -> String {
    let client = world.client(1, Purpose::Settle);
    let rows = client.within(
        |_| false,
        async |client| {
            client.batch_execute(&format!("prepare statement as {statement}")).await?;
            client.query(&format!("explain execute statement({arguments})"), &[]).await
        },
    );
    rows.await.unwrap().iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flash_sale_is_found_by_its_keys_whatever_the_statistics_say() {
    let world = World::new().await;
    let load = ("load", include_str!("../../crates/book/src/postgres/load.sql"), "array['bulk-1'], null");
    let lock = ("lock", include_str!("../../crates/book/src/postgres/lock.sql"), "array['bulk-1']");
    let complete = |statement: &str| statement.replace("-- stock.sql", STOCK);
    let settle = complete(include_str!("../../crates/book/src/postgres/settle.sql"));
    let pay = complete(include_str!("../../crates/book/src/postgres/pay.sql"));
    let settle = (
        "settle",
        settle.as_str(),
        "array['bulk-1'], array[now()], array['k'], 'test', array[null::text], 'reason', null, null, array[null::float8], null",
    );
    let pay = (
        "pay",
        pay.as_str(),
        "array['bulk-1'], array['t'], array[now()], array['k'], array['wechat'], array['bulk-1'], array[1], array['CNY'], array['r'], 'test', null, array['f'], array[false]",
    );
    let check = async |when: &str| {
        for (name, statement, arguments) in [load, lock, settle, pay] {
            let plan = plan(&world, statement, arguments).await;
            assert!(plan.contains("orders_pkey"), "{name}, {when}: {plan}");
            for bad in ["orders_pending_by_deadline", "Seq Scan", "Hash Join", "Merge Join", "overdue_event"] {
                assert!(!plan.contains(bad), "{name}, {when}: {bad} in {plan}");
            }
        }
    };
    check("on fresh tables").await;
    let orders = "insert into orders (id, amount_minor, currency, payment_deadline, status, closed_at)
         select prefix || g, 1, 'CNY', now(), status, closed_at from generate_series(1, 20000) g,
         (values ('old-', 'closed', now())) as v (prefix, status, closed_at)";
    world.execute(orders).await;
    world
        .execute(
            "insert into payments (order_id, gateway, state) select 'old-' || g, 'wechat', 'closed' from generate_series(1, 20000) g",
        )
        .await;
    world.execute("analyze").await;
    check("when nothing was pending").await;
    world.execute(&orders.replace("'old-', 'closed', now()", "'bulk-', 'pending', null::timestamptz")).await;
    check("when the sale came after the statistics").await;
    world.execute("analyze").await;
    check("when all have the same deadline").await;
    world.close().await;
}

/// Closes some orders by the message path and checks the books.
async fn closes_as_ever(world: &World) {
    let mut orders = Vec::new();
    for _ in 0..20 {
        orders.push(world.overdue_order("tea").await);
    }
    let paid = world.order("tea", Duration::from_secs(3600)).await;
    world.pay(&paid.id, None).await.unwrap();
    let worker = world.worker();
    let foreign = world.foreign().await;
    for order in orders.iter().chain([&paid]) {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    eventually("all are settled", async || worker.counted().closed == 20 && worker.counted().unchanged == 1).await;
    assert_eq!(world.shelf("tea").await, (99, 0));
    assert_eq!(worker.counted().held, 0);
    world.audit().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_partitioned_tables_serve_as_well() {
    let world = World::new().await;
    world.execute(include_str!("../../docs/partitioned-tables.sql")).await;
    world.stock("tea", 100).await;
    closes_as_ever(&world).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_over_a_shops_own_tables_serve_as_well() {
    let world = World::new().await;
    world
        .execute(
            "drop table order_items, orders, inventory cascade;
             create table shop_stock (code varchar(40) primary key, free int8 not null check (free >= 0), held int8 not null default 0 check (held >= 0));
             create table shop_order (order_no varchar(64) primary key, state text not null default 'pending', total int8 not null,
                 cur text not null, pay_until timestamptz not null, made timestamptz not null default clock_timestamp(),
                 paid timestamptz, shut timestamptz, tx text, remark text);
             create table shop_line (order_no varchar(64) not null references shop_order, code varchar(40) not null, n int8 not null, primary key (order_no, code));
             create view orders as select order_no::text collate \"C\" as id0, order_no as id, state as status, total as amount_minor,
                 cur as currency, pay_until as payment_deadline, made as created_at, paid as paid_at, shut as closed_at, tx as transaction_id from shop_order;
             create view order_items as select order_no as order_id, code as sku_id, n as quantity from shop_line;
             create view inventory as select code as sku_id, free as available, held as reserved from shop_stock",
        )
        .await;
    // The shop's own code makes its orders; here, the publisher's statements do as well.
    world.execute("insert into shop_stock (code, free) values ('tea', 100)").await;
    closes_as_ever(&world).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_finds_its_way_where_orders_is_a_view() {
    let world = World::new().await;
    world
        .execute(
            "drop schema public cascade; create schema public;
             create table kept (path text)",
        )
        .await;
    // As the first version left it, and as the README lets a shop change it.
    for migration in
        [include_str!("../../migrations/0001_orders.sql"), include_str!("../../migrations/0002_payments.sql")]
    {
        world.execute(migration).await;
    }
    world.execute("alter table order_items drop constraint order_items_order_id_fkey; alter table orders rename to shop_orders; drop index orders_pending_by_deadline; create view orders as select * from shop_orders").await;
    for migration in [
        include_str!("../../migrations/0003_events.sql"),
        include_str!("../../migrations/0004_sweep.sql"),
        include_str!("../../migrations/0005_operators.sql"),
        include_str!("../../migrations/0006_traces.sql"),
        include_str!("../../migrations/0007_fillfactor.sql"),
        include_str!("../../migrations/0008_kinds_and_events.sql"),
        include_str!("../../migrations/0009_foreign.sql"),
        include_str!("../../migrations/0010_attempts.sql"),
        include_str!("../../migrations/0011_on_time.sql"),
        include_str!("../../migrations/0012_timers.sql"),
        include_str!("../../migrations/0013_webhooks.sql"),
    ] {
        world.execute(migration).await;
    }
    world.stock("tea", 100).await;
    closes_as_ever(&world).await;
    world.close().await;
}

/// A shop that uses sqlx in the same database, and one that has an `orders` of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_be_shared_with_a_shop() {
    let world = World::bare(&[]).await;
    // As an earlier version left it, with a migration of the shop's in the same table.
    world
        .execute(
            "create table _sqlx_migrations (like overdue_migrations including all);
             insert into _sqlx_migrations select * from overdue_migrations;
             insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (20260101, 'of the shop', true, 'x', 0);
             drop table overdue_migrations",
        )
        .await;
    let behind = world.overdue(&["audit"]).await;
    assert_eq!(behind.status.code(), Some(4), "{behind:?}");
    assert!(String::from_utf8_lossy(&behind.stderr).contains("run `overdue migrate`"));
    for _ in 0..2 {
        assert_eq!(world.overdue(&["migrate"]).await.status.code(), Some(0));
    }
    assert_eq!(world.number("select count(*) from _sqlx_migrations where version = 20260101").await, 1);
    assert_eq!(world.number("select count(*) from _sqlx_migrations").await, 1);
    assert_eq!(world.overdue(&["audit"]).await.status.code(), Some(0));

    // A search path that leads elsewhere.
    let mut command = world.command(&["audit"]);
    command.env("OVERDUE_DATABASE_URL", format!("{}{}search_path=elsewhere", world.database_url, separator(&world)));
    let elsewhere = command.output().await.unwrap();
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("search_path=public"), "{elsewhere:?}");

    // An `orders` that is not ours.
    world.execute("drop schema public cascade; create schema public; create table orders (no int)").await;
    let refused = world.overdue(&["migrate"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("search_path=overdue") && said.contains("views"), "{said}");
    assert_eq!(world.number("select count(*) from pg_tables where schemaname = 'public'").await, 1, "nothing was made");
    // The first of the two ways that it names, to the letter.
    world.execute("create schema overdue").await;
    let url = format!("{}{}search_path=overdue", world.database_url, separator(&world));
    for arguments in
        [&["migrate"][..], &["stock", "add", "tea", "5"], &["order", "create", "A-1", "--item", "tea=1"], &["audit"]]
    {
        let mut command = world.command(arguments);
        let output = command.env("OVERDUE_DATABASE_URL", &url).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    assert_eq!(world.number("select count(*) from overdue.orders").await, 1);
    world.close().await;
}

fn separator(world: &World) -> char {
    if world.database_url.contains('?') { '&' } else { '?' }
}

/// What is changed by hand is written down, and a deadline that is brought forward arms itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_hand_is_written_down_and_armed() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let (relay, worker) = (world.relay(), world.worker());
    let order = world.order("tea", Duration::from_secs(3600)).await;
    eventually("it is armed", async || world.number("select count(*) from outbox").await == 0).await;
    world.execute("update orders set payment_deadline = clock_timestamp() + interval '1 s'").await;
    world.becomes(&order.id, "closed").await;
    let moved = "select count(*) from order_log where from_status = 'pending' and to_status = 'pending' and reason like 'deadline moved by hand%'";
    assert_eq!(world.number(moved).await, 1);
    world.execute("update orders set status = 'pending', closed_at = null, payment_deadline = clock_timestamp() + interval '1 s'; update inventory set available = 4, reserved = 1").await;
    world.becomes(&order.id, "closed").await;
    assert_eq!(
        world.number("select count(*) from order_log where to_status = 'pending' and from_status = 'closed'").await,
        1
    );
    assert_eq!(world.shelf("tea").await, (5, 0));
    // The audit judges what is, and takes what is explained for explained.
    world.execute("update orders set payment_deadline = payment_deadline + interval '1 day'").await;
    let audit = world.overdue(&["audit"]).await;
    assert_eq!(audit.status.code(), Some(0), "{}", String::from_utf8_lossy(&audit.stdout));
    worker.stop().await;
    relay.stop().await;
    world.close().await;
}
