//! Foreign neighbours: what others do in the same database and broker while orders flow. Their own orders are of another SKU.
//! In the end their trouble is ended as the runbook has it, so that their books are clean, too.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use shop::NewOrder;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Proxy, World, env, management, use_servers};
use url::Url;

use crate::shop::Books;
use crate::stage::{Stage, lasts, script};

/// The SKU of the neighbours' orders.
const SKU: &str = "coffee";

/// The amount by which the neighbours' trigger knows its orders.
const BAD: i64 = 666;

/// A rule of the shop's own refuses to close some orders, one more each second.
pub(crate) async fn raising_trigger(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    stage.world.stock(SKU, 1_000).await;
    let rule = format!(
        "create function shop_rule() returns trigger language plpgsql as $$
         begin raise exception 'stocktaking' using errcode = 'SH001'; end $$;
         create trigger shop_rule before update of status on orders for each row
             when (old.amount_minor = {BAD} and new.status = 'closed') execute function shop_rule()"
    );
    stage.world.execute(&rule).await;
    let count = 5 * rounds;
    for _ in 0..count {
        order(&stage.world).await;
        stage.shop.goes_on(40).await;
    }
    stage.world.execute("drop trigger shop_rule on orders").await;
    requeue_until_closed(&stage.world).await;
    (count, stage.end().await)
}

/// Another session holds the stock of a SKU.
pub(crate) async fn locked_sku(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    stage.world.stock(SKU, 1_000).await;
    for _ in 0..rounds {
        for _ in 0..5 {
            order(&stage.world).await;
        }
        let mut holder = PgConnection::connect(&stage.world.database_url).await.expect("a connection");
        execute(&mut holder, "begin; select from inventory where sku_id = 'coffee' for update").await;
        stage.shop.goes_on(150).await;
        execute(&mut holder, "rollback").await;
    }
    requeue_until_closed(&stage.world).await;
    (rounds, stage.end().await)
}

/// Messages that no client of ours would send, of each kind one, each second.
pub(crate) async fn poison(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    let kinds = [
        "ch.basic_publish('overdue.due', '30m.payment', b'x', pika.BasicProperties(correlation_id=b'\\xff\\xfe\\x01'))",
        "ch.basic_publish('overdue.due', '30m.payment', b'no ID', pika.BasicProperties(headers=nested(2500, 'table')))",
        "ch.basic_publish('overdue.due', '30m.payment', b'no ID', pika.BasicProperties(headers=nested(2500, 'list')))",
        "ch.basic_publish('overdue.delay', b'1s.\\xff', b'x', pika.BasicProperties(type=b'\\xff'))",
        "ch.basic_publish('overdue.due', '30m.payment', b'{\"v\":1,\"orders\":[' + b','.join(b'{\"id\":\"nobody-%d\"}' % n for n in range(256)) + b']}')",
        "ch.basic_publish('overdue.lanes', '1s.payment', b'nobody', pika.BasicProperties(headers={'x-overdue-attempt': 1000, 'x-overdue-until': 2**62}))",
    ];
    for _ in 0..rounds {
        for kind in kinds {
            stage.world.publish_oddly(kind).await;
            stage.shop.goes_on(40).await;
        }
    }
    (kinds.len() as u32 * rounds, stage.end().await)
}

/// Somebody tidies up: full lanes push out what waits in them.
pub(crate) async fn policy(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    let vhost = stage.world.vhost.clone();
    let definition = json!({ "max-length": 3, "overflow": "drop-head" });
    let policy = json!({ "pattern": "[.]delay[.]", "definition": definition, "apply-to": "queues" });
    for _ in 0..rounds {
        management(Method::PUT, &["policies", &vhost, "tidy"], Some(policy.clone())).await;
        stage.shop.goes_on(150).await;
        management(Method::DELETE, &["policies", &vhost, "tidy"], None).await;
        stage.shop.goes_on(60).await;
    }
    (rounds, stage.end().await)
}

/// A service writes rows into the outbox that are none.
pub(crate) async fn odd_checkout(rounds: u32) -> (u32, Books) {
    let stage = Stage::set().await;
    let traces = ["01-zz", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01", "", "\u{fffd}"];
    let count = 10 * rounds;
    for number in 0..count {
        let trace = traces[number as usize % traces.len()];
        let rows = format!(
            "insert into outbox (order_id, due_at, traceparent) values ('odd-{number}', now(), '{trace}'), ('no ID', 'infinity', null), (repeat('x', 100), '-infinity', '{trace}');
             insert into outbox (order_id, due_at, kind) values ('odd-{number}', now(), 'receipt')"
        );
        stage.world.execute(&rows).await;
        stage.shop.goes_on(10).await;
    }
    (count, stage.end().await)
}

/// The primary is fenced off, and its standby takes over. What was committed is on both, as where `synchronous_standby_names` is
/// set.
pub(crate) async fn standby_promoted(_: u32) -> (u32, Books) {
    let primary_url = env("OVERDUE_DATABASE_URL");
    let mut url: Url = primary_url.parse().expect("a URL");
    let standby = script("local", &["standby-up"]).await;
    let server = Proxy::to(&format!("127.0.0.1:{}", url.port().expect("a port"))).await;
    url.set_port(Some(server.port())).expect("a port");
    let mut primary = PgConnection::connect(&primary_url).await.expect("the primary");
    execute(&mut primary, "alter system set synchronous_standby_names = '*'").await;
    execute(&mut primary, "select pg_reload_conf()").await;
    while !follows(&mut primary).await {
        lasts(0.1).await;
    }
    use_servers(Some(HashMap::from([("OVERDUE_DATABASE_URL".to_owned(), url.to_string())])));
    let stage = Stage::set().await;
    let database = stage.world.vhost.clone();
    server.cut();
    execute(&mut primary, "alter system reset synchronous_standby_names").await;
    execute(&mut primary, "select pg_reload_conf()").await;
    let mut there: Url = primary_url.parse().expect("a URL");
    there.set_port(standby.trim().parse().ok()).expect("a port");
    let mut promoted = PgConnection::connect(there.as_str()).await.expect("the standby");
    execute(&mut promoted, "select pg_promote()").await;
    server.lead_to(&format!("127.0.0.1:{}", standby.trim()));
    server.pass();
    stage.shop.goes_on(150).await;
    let books = stage.end().await;
    use_servers(None);
    drop(promoted);
    script("local", &["standby-down"]).await;
    execute(&mut primary, &format!("drop database if exists {database} with (force)")).await;
    (1, books)
}

async fn follows(primary: &mut PgConnection) -> bool {
    let synchronous = "select exists (select from pg_stat_replication where sync_state = 'sync')";
    sqlx::query_scalar(synchronous).fetch_one(primary).await.expect("an answer")
}

/// An order of the neighbours', due in a second.
async fn order(world: &World) {
    let timeout = Duration::from_secs(1);
    let new = NewOrder { amount_minor: BAD, ..world.new_order(&[(SKU, 1)], timeout) };
    world.create(&new).await.expect("it is created");
}

/// As the runbook has it: once the cause is mended, what was parked goes in again.
async fn requeue_until_closed(world: &World) {
    let left = "select count(*) from orders o join order_items i on i.order_id = o.id where i.sku_id = 'coffee' and o.status = 'pending'";
    while world.number(left).await > 0 {
        let _ = world.overdue(&["parked", "requeue", "--all"]).await;
        lasts(0.5).await;
    }
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.expect("it is done");
}
