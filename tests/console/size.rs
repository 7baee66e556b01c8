//! A console over much: what a page costs does not grow with what there is.

use std::time::{Duration, Instant};

use book::{OperatorActions, OrderBook, ParkedTable, PostgresBook, Processes, StoppedEndpoints};
use database::{Client, ClientWrapper, Purpose};
use tests::World;

use crate::browser::all;
use crate::stage::Stage;

/// Orders and parked messages: few, or as `make test-console` has them.
fn sizes() -> (i64, i64) {
    if all() { (1_000_000, 100_000) } else { (60_000, 30_000) }
}

/// What there is much of.
const FURNISHED: [&str; 8] =
    ["orders", "parked", "processes", "process_minutes", "order_trail", "operator_actions", "refunds", "payments"];

/// Rows of a table that were read without an index, and entries of its indexes that were read.
async fn reads(world: &World, table: &str) -> (i64, i64) {
    let of = async |column: &str, view: &str| {
        world.number(&format!("select coalesce(sum({column}), 0)::bigint from {view} where relname = '{table}'")).await
    };
    (of("seq_tup_read", "pg_stat_user_tables").await, of("idx_tup_read", "pg_stat_user_indexes").await)
}

/// What this reads of a table, in one connection.
async fn read_by<T>(world: &World, client: &Client, table: &str, work: impl Future<Output = T>) -> (i64, i64) {
    let flush = async || {
        let flush = async |client: &mut ClientWrapper| client.execute("select pg_stat_force_next_flush()", &[]).await;
        client.within(|_| false, flush).await.unwrap();
    };
    flush().await;
    let before = reads(world, table).await;
    work.await;
    flush().await;
    let after = reads(world, table).await;
    (after.0 - before.0, after.1 - before.1)
}

async fn furnish(world: &World) {
    let (orders, parked) = sizes();
    world
        .execute(&format!(
            "insert into orders (id, amount_minor, currency, payment_deadline, status, closed_at)
             select 'o-' || n, 1, 'CNY', now() + (n % 7200) * interval '1 second' + interval '1 minute',
                    case when n % 2 = 0 then 'pending' else 'closed' end, case when n % 2 = 1 then now() end
             from generate_series(1, {orders}) n;
             insert into parked (reason, detail, orders, routing_key, body, fingerprint, first_at, last_at)
             select (array['unknown_order', 'not_json', 'delivery_limit', 'not_closed', 'payment_unknown'])[1 + n % 5], 'an example', array['o-' || n],
                    '30m.payment', 'x', decode(md5(n::text), 'hex'), now(), now()
             from generate_series(1, {parked}) n;
             insert into processes (id, host, pid, version, roles, started_at, seen_at, circuits)
             select gen_random_uuid(), 'host-' || n, n, '0.1.0', '{{relay,worker}}', now() - interval '1 day', now() + interval '1 hour',
                    '[{{\"of\":\"gateway\",\"name\":\"wechat\",\"call\":\"query\"}},{{\"of\":\"endpoint\",\"name\":\"shop\",\"call\":\"\"}}]'
             from generate_series(1, 20) n;
             insert into process_minutes (minute, process, late, late_max_ms)
             select date_trunc('minute', now()) - m * interval '1 minute', id, array[100, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 20
             from processes, generate_series(0, 60) m;
             insert into order_trail (subject, step, actor, detail, at)
             select 'o-' || n, 'came', 'worker', 'from its queue', now() - (n % 9) * interval '1 day' - n * interval '1 microsecond' from generate_series(1, {orders}) n;
             insert into operator_actions (operator, role, action, subject, state)
             select 'alice', 'act', 'order.look', 'o-' || n, 'done' from generate_series(1, {parked}) n;
             insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, succeeded_at)
             select 'overdue-' || n, 'o-' || n, 'wechat', 'o-' || n, 't-' || n, 1, 'CNY', 'late', 'succeeded', now() from generate_series(1, {parked}) n;
             insert into payments (order_id, gateway, trade_no) select 'o-' || 2 * n, 'wechat', 'o-' || 2 * n from generate_series(1, {parked}) n"
        ))
        .await;
    for table in FURNISHED {
        world.execute(&format!("vacuum analyze {table}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_counts_to_the_end_or_reads_a_table_as_a_whole() {
    let world = World::new().await;
    furnish(&world).await;
    let stage = Stage::with(&world, &["run", "--only", "console"], &[]).await;
    let read = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
                where relname in ('orders', 'parked', 'order_trail', 'operator_actions', 'refunds')";
    let before = world.number(read).await;
    assert!(stage.page("/console").await.contains("10,000 or more"), "it says that it has not counted to the end");
    let pages = [
        "/console",
        "/console/orders",
        "/console/orders?id=o-12",
        "/console/orders/o-12",
        "/console/parked",
        "/console/parked/list",
        "/console/parked/list?reason=not_json",
        "/console/parked/list?order=o-12",
        "/console/parked/7",
        "/console/parked/confirm?action=drop&reason=not_json&until=99999999",
        "/console/refunds",
        "/console/gateways",
        "/console/processes",
        "/console/timers",
        "/console/actions",
    ];
    for path in pages {
        let mut took: Vec<Duration> = Vec::new();
        for _ in 0..10 {
            let begun = Instant::now();
            stage.page(path).await;
            took.push(begun.elapsed());
        }
        took.sort();
        println!("{path:<70} {:>8.1} ms median {:>8.1} ms worst", ms(took[5]), ms(took[9]));
    }
    // The figures of a connection are told to the others when it has been idle for a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.number(read).await - before, 0, "rows that were read without an index");
    // Nor is an index read to its end.
    let client = world.client(1, Purpose::Shop);
    let parked = ParkedTable::new(client.clone());
    let (rows, entries) = read_by(&world, &client, "parked", parked.groups_up_to(1_000)).await;
    assert!(rows == 0 && (5_000..6_000).contains(&entries), "five reasons, each to its bound: {entries}");
    let (rows, entries) = read_by(&world, &client, "orders", book::overview(&client)).await;
    assert!(rows == 0 && (10_001..30_100).contains(&entries), "three counts, each to its bound: {entries}");
    // What the sweep asks gateways about is found by its time. These are all in the future.
    let settle = world.client(1, Purpose::Settle);
    let book = PostgresBook::new(settle.clone());
    let (rows, entries) = read_by(&world, &settle, "payments", book.unfinished(100)).await;
    assert!(rows == 0 && entries < 100, "{rows} {entries}");
    // What is too old of the trail is found by its age, and the rest is not read for it.
    let old = "select count(*) from order_trail where at < now() - interval '7 days'";
    assert!(world.number(old).await > 10_000, "more than are deleted together");
    let mut may_be_more = true;
    while may_be_more {
        let tidy = async { may_be_more = book::tidy_trail(&settle).await.unwrap() };
        let (rows, entries) = read_by(&world, &settle, "order_trail", tidy).await;
        // Those that are deleted, twice, and once more those that were deleted just before.
        assert!(rows == 0 && entries <= 30_100, "{rows} {entries}");
    }
    assert_eq!(world.number(old).await, 0);
    snapshot(&world).await;
    stage.end().await;
    world.close().await;
}

/// What the database takes for what all pages share, round trips included.
async fn snapshot(world: &World) {
    let client = world.client(1, Purpose::Shop);
    let (processes, parked) = (Processes::new(client.clone()), ParkedTable::new(client.clone()));
    let mut parts: Vec<(&str, Vec<Duration>)> = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let mut ends = Vec::new();
        book::overview(&client).await.unwrap();
        ends.push(("overview", begun.elapsed()));
        processes.all().await.unwrap();
        ends.push(("processes", begun.elapsed()));
        processes.minutes(60, Some(time::OffsetDateTime::now_utc() - Duration::from_secs(60))).await.unwrap();
        ends.push(("minutes", begun.elapsed()));
        parked.groups_up_to(1_000).await.unwrap();
        ends.push(("groups", begun.elapsed()));
        book::registered_gateways(&client).await.unwrap();
        StoppedEndpoints::new(client.clone()).all().await.unwrap();
        OperatorActions::new(client.clone()).under_way(50).await.unwrap();
        ends.push(("others", begun.elapsed()));
        let mut last = Duration::ZERO;
        for (place, (name, end)) in ends.into_iter().enumerate() {
            if parts.len() == place {
                parts.push((name, Vec::new()));
            }
            parts[place].1.push(end - last);
            last = end;
        }
    }
    let mut total = Duration::ZERO;
    for (name, mut took) in parts {
        took.sort();
        total += took[10];
        println!("snapshot: {name:<12} {:>6.2} ms", ms(took[10]));
    }
    println!("snapshot: all          {:>6.2} ms, every two seconds while somebody looks", ms(total));
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
