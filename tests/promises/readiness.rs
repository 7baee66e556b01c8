//! `/readyz` says what keeps a process from its work, and is 200 again when that is over.

use lapin::options::QueueDeleteOptions;
use reqwest::StatusCode;
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

/// All connections for requests hang in a statement, and requests wait for one.
#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_is_named() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let (process, base) = start(&world).await;
    let lock = "begin; lock table orders in access exclusive mode";
    let mut holder = PgConnection::connect(&world.database_url).await.unwrap();
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let mut requests = Vec::new();
    for _ in 0..40 {
        let url = format!("{base}/orders/o-1");
        requests.push(tokio::spawn(async move {
            // A request that gives up is followed by another.
            loop {
                drop(reqwest::get(&url).await);
            }
        }));
    }
    is_not_ready(&base, "all connections for requests are in use").await;
    requests.iter().for_each(|request| request.abort());
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    eventually("it is ready again", async || readyz(&base).await.0 == StatusCode::OK).await;
    process.kill().await;
    world.close().await;
}
