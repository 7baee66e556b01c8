//! `/readyz` says what keeps a process from its work, and is 200 again when that is over.

use lapin::options::QueueDeleteOptions;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Process, World, eventually};

async fn readyz(base: &str) -> (StatusCode, String) {
    let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn start(world: &World) -> (Process, String) {
    let process = world.start(&["run", "--listen", "127.0.0.1:0"]);
    process.says("sweeping").await;
    let base = process.http_base().await;
    eventually("it is ready", async || readyz(&base).await.0 == StatusCode::OK).await;
    (process, base)
}

async fn is_not_ready(base: &str, why: &str) {
    eventually(&format!("it is not ready: {why}"), async || {
        let (status, text) = readyz(base).await;
        status == StatusCode::SERVICE_UNAVAILABLE && text.contains(why)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_gone_is_named() {
    let world = World::new().await;
    let (process, base) = start(&world).await;
    let channel = world.foreign().await.channel;
    for queue in ["overdue.v1.due.payment", "overdue.v1.delay.30m", "overdue.v1.parked"] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        is_not_ready(&base, queue).await;
        assert!(world.overdue(&["topology", "declare"]).await.status.success());
        eventually("it is ready again", async || readyz(&base).await.0 == StatusCode::OK).await;
    }
    process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_any_more_is_named() {
    let world = World::new().await;
    let (process, base) = start(&world).await;
    let mut admin = PgConnection::connect(&world.database_url).await.unwrap();
    let database: String = sqlx::query_scalar("select current_database()::text").fetch_one(&mut admin).await.unwrap();
    let set = format!("alter database {database} set default_transaction_read_only = on");
    sqlx::query(AssertSqlSafe(set)).execute(&mut admin).await.unwrap();
    world.disconnect_everybody().await;
    is_not_ready(&base, "database").await;
    let mut admin = PgConnection::connect(&world.database_url).await.unwrap();
    let reset =
        format!("set transaction_read_only = off; alter database {database} reset default_transaction_read_only");
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {reset}; commit"))).execute(&mut admin).await.unwrap();
    world.disconnect_everybody().await;
    eventually("it is ready again", async || readyz(&base).await.0 == StatusCode::OK).await;
    process.kill().await;
    world.close().await;
}

/// All connections for requests hang in a statement of a slow trigger, and requests wait for one.
#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_is_named() {
    const ORDERS: u32 = 40;
    let world = World::new().await;
    // Each order has an SKU of its own, so that none waits for the stock row of another.
    for number in 0..ORDERS {
        world.stock(&format!("tea-{number}"), 1).await;
    }
    let (process, base) = start(&world).await;
    let mut shop = PgConnection::connect(&world.database_url).await.unwrap();
    let slow = "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(3600); return new; end $$;
        create trigger slow before insert on orders for each row execute function slow()";
    sqlx::raw_sql(slow).execute(&mut shop).await.unwrap();
    let client = reqwest::Client::new();
    let requests: Vec<_> = (0..ORDERS)
        .map(|number| {
            let (client, url) = (client.clone(), format!("{base}/orders"));
            let items = json!([{ "sku": format!("tea-{number}"), "quantity": 1 }]);
            let order = json!({ "id": format!("o-{number}"), "items": items, "amount_minor": 1, "currency": "CNY" });
            tokio::spawn(async move {
                // A request that gives up is followed by another.
                loop {
                    drop(client.post(&url).json(&order).send().await);
                }
            })
        })
        .collect();
    is_not_ready(&base, "all connections for requests are in use").await;
    requests.iter().for_each(|request| request.abort());
    let quick = "create or replace function slow() returns trigger language plpgsql as $$ begin return new; end $$";
    sqlx::raw_sql(quick).execute(&mut shop).await.unwrap();
    world.disconnect_everybody().await;
    eventually("it is ready again", async || readyz(&base).await.0 == StatusCode::OK).await;
    process.kill().await;
    world.close().await;
}
