//! Two who reach for the same order: each interleaving is forced by holding locks in the database.

use book::{Actor, Closing, ItemReply};
use sqlx::{AssertSqlSafe, Connection};
use tests::{World, eventually};
use worker::PipelineSettings;

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_between_load_and_close_wins() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let mut shop = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let mut payment = shop.begin().await.unwrap();
    // The payment has begun, and holds the row; loading sees the order as pending, closing waits for the row.
    let pay = "update orders set status = 'paid', paid_at = clock_timestamp() where id = $1 and status = 'pending'";
    sqlx::query(pay).bind(order.id.as_str()).execute(&mut *payment).await.unwrap();
    let worker = world.worker();
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("closing waits for the payment", async || world.waiting_for_locks().await == 1).await;
    sqlx::query("update inventory set reserved = reserved - 1 where sku_id = 'tea'")
        .execute(&mut *payment)
        .await
        .unwrap();
    payment.commit().await.unwrap();

    eventually("the worker has seen the payment", async || worker.counted().messages == 1).await;
    assert_eq!(world.status(&order.id).await, "paid");
    assert_eq!((worker.counted().unchanged, worker.counted().closed), (1, 0));
    assert_eq!(world.shelf("tea").await, (4, 0), "sold, not released");
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 0);
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_between_load_and_close_wins() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let mut shop = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let mut extension = shop.begin().await.unwrap();
    let extend = "update orders set payment_deadline = clock_timestamp() + interval '61 minutes' where id = $1";
    sqlx::query(extend).bind(order.id.as_str()).execute(&mut *extension).await.unwrap();
    let worker = world.worker();
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("closing waits for the extension", async || world.waiting_for_locks().await == 1).await;
    extension.commit().await.unwrap();

    eventually("the worker has sent it on", async || worker.counted().waiting == 1).await;
    assert_eq!(world.status(&order.id).await, "pending");
    assert_eq!(world.shelf("tea").await, (4, 1));
    foreign.queue_holds("overdue.v1.delay.1h", 1).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_one_order_close_it_once() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let mut shop = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let mut holder = shop.begin().await.unwrap();
    let lock = "select 1 from orders where id = $1 for update";
    sqlx::query(lock).bind(order.id.as_str()).execute(&mut *holder).await.unwrap();

    // One message for each: neither takes more than one at a time.
    let settings = PipelineSettings { pipelines: 1, prefetch_messages: 1, ..PipelineSettings::default() };
    let workers = [world.worker_with(settings.clone()), world.worker_with(settings)];
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("both have loaded it and want to close it", async || world.waiting_for_locks().await == 2).await;
    holder.commit().await.unwrap();

    eventually("both are through", async || workers.iter().all(|worker| worker.counted().messages == 1)).await;
    let closed: u64 = workers.iter().map(|worker| worker.counted().closed).sum();
    assert_eq!(closed, 1, "one wins, the other finds it closed");
    assert_eq!(world.shelf("tea").await, (5, 0));
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 1);
    world.audit().await;
    for worker in workers {
        worker.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_change_between_load_and_close_are_released_as_they_are() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let order = world.overdue_order("tea").await;
    let mut shop = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let mut change = shop.begin().await.unwrap();
    let lock = "select 1 from orders where id = $1 for update";
    sqlx::query(lock).bind(order.id.as_str()).execute(&mut *change).await.unwrap();
    let worker = world.worker();
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("closing waits for the change", async || world.waiting_for_locks().await == 1).await;
    for statement in [
        "update order_items set quantity = 3",
        "update inventory set available = available - 2, reserved = reserved + 2",
    ] {
        sqlx::query(statement).execute(&mut *change).await.unwrap();
    }
    change.commit().await.unwrap();
    world.becomes(&order.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (10, 0), "all three are back");
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

/// Whoever waits for a row must hold none that comes later, or two could wait for each other. So a row is held
/// up, and the later one must still be free.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_locked_in_the_order_of_their_keys() {
    let world = World::new().await;
    for sku in ["a", "z"] {
        world.stock(sku, 5).await;
    }
    for held_up in ["orders where id = $1", "inventory where sku_id = $1"] {
        let orders = [world.overdue_order("z").await, world.overdue_order("a").await];
        let (first, last) = match held_up.starts_with("orders") {
            true => (orders[0].id.to_string(), orders[1].id.to_string()),
            false => ("a".to_owned(), "z".to_owned()),
        };
        let lock = format!("select 1 from {held_up} for update nowait");
        let mut holder = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
        let mut transaction = holder.begin().await.unwrap();
        sqlx::query(AssertSqlSafe(lock.as_str())).bind(&first).execute(&mut *transaction).await.unwrap();
        // The later first.
        let closings: Vec<_> = orders
            .iter()
            .rev()
            .map(|order| Closing {
                id: order.id.clone(),
                deadline: order.deadline,
                revision: None,
                payments: Vec::new(),
                recheck: None,
            })
            .collect();
        let book = world.book();
        let by = Actor::on_timeout("test");
        let settling = tokio::spawn(async move { book.settle(&closings, &by, None).await.unwrap().items });
        eventually("settling waits for the first", async || world.waiting_for_locks().await == 1).await;
        sqlx::query(AssertSqlSafe(lock.as_str())).bind(&last).execute(&world.pool).await.expect("the last is free");
        transaction.commit().await.unwrap();
        let settled = settling.await.unwrap();
        assert!(settled.len() == 2 && settled.values().all(|item| matches!(item, ItemReply::Done(_))), "{settled:?}");
    }
    world.audit().await;
    world.close().await;
}
