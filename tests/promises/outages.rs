//! A server is away for a while: nothing is lost, nothing is parked, and work goes on by itself.

use std::time::Duration;

use reqwest::Method;
use tests::{Proxy, World, eventually, management};
use url::Url;
use worker::PipelineSettings;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_messages_are_held_and_not_parked() {
    let mut world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let proxy = proxied(&mut world.database_url).await;
    let worker = world.worker();
    // One that goes through, so that there are connections to break.
    let warm = world.overdue_order("tea").await;
    let foreign = world.foreign().await;
    foreign.due_now(warm.id.as_str().as_bytes()).await;
    world.becomes(&warm.id, "closed").await;
    proxy.cut();
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the worker waits", async || worker.counted().held >= 1).await;
    assert_eq!(world.status(&order.id).await, "pending");
    foreign.queue_holds("overdue.v1.parked", 0).await;

    proxy.pass();
    world.becomes(&order.id, "closed").await;
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_worker_come_back_after_the_network_to_the_broker_broke() {
    let mut world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 5).await;
    let proxy = proxied(&mut world.amqp_url).await;
    let (relay, worker) = (world.relay(), world.worker());
    for _ in 0..2 {
        let order = world.order("tea", Duration::from_secs(2)).await;
        world.becomes(&order.id, "closed").await;
        proxy.cut();
        let held = worker.counted().held;
        let meanwhile = world.order("tea", Duration::from_secs(2)).await;
        eventually("both have noticed", async || worker.counted().held > held && relay.relayed().1 > 0).await;
        proxy.pass();
        world.becomes(&meanwhile.id, "closed").await;
    }
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

/// Puts a proxy before the server that the URL names.
async fn proxied(url: &mut String) -> Proxy {
    let mut parsed: Url = url.parse().unwrap();
    let proxy = Proxy::to(&format!("{}:{}", parsed.host_str().unwrap(), parsed.port().unwrap())).await;
    parsed.set_host(Some("127.0.0.1")).unwrap();
    parsed.set_port(Some(proxy.port())).unwrap();
    *url = parsed.to_string();
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_queue_that_is_deleted_and_declared_again_is_consumed_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    let first = world.overdue_order("tea").await;
    foreign.due_now(first.id.as_str().as_bytes()).await;
    world.becomes(&first.id, "closed").await;
    // The server cancels the consumer; that ends its stream without an error.
    management(Method::DELETE, &["queues", &world.vhost, "overdue.v1.due.payment"], None).await;
    eventually("the worker has noticed", async || worker.counted().held >= 1).await;
    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    let second = world.overdue_order("tea").await;
    foreign.due_now(second.id.as_str().as_bytes()).await;
    world.becomes(&second.id, "closed").await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_connection_that_has_gone_silent_is_given_up() {
    let mut world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 5).await;
    world.answer_timeout = Duration::from_millis(500);
    let proxy = proxied(&mut world.database_url).await;
    let (relay, worker) = (world.relay(), world.worker());
    for round in 1..=2 {
        let order = world.order("tea", Duration::from_secs(2)).await;
        world.becomes(&order.id, "closed").await;
        eventually("it was sent once", async || relay.relayed().0 == round).await;
        // Nobody is told; only new connections work.
        proxy.freeze();
    }
    let order = world.order("tea", Duration::from_secs(2)).await;
    world.becomes(&order.id, "closed").await;
    world.audit().await;
    relay.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_whose_answer_is_lost_is_not_parked() {
    let mut world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let gate = world.gate("insert on order_log").await;
    let proxy = proxied(&mut world.database_url).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the close is on its way", async || world.waiting_for_locks().await == 1).await;
    // Whether it will be committed, the worker cannot know.
    proxy.cut();
    eventually("the worker waits", async || worker.counted().held >= 1).await;
    gate.open().await;
    proxy.pass();
    world.becomes(&order.id, "closed").await;
    eventually("the message is handled", async || worker.counted().messages == 1).await;
    assert_eq!(worker.counted().parked, 0);
    assert_eq!(world.shelf("tea").await, (5, 0));
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_is_no_fault_of_the_order_is_tried_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    // A deadlock, a serialisation failure, a cancelled statement, a missing permission: each twice, then not.
    for code in ["40P01", "40001", "57014", "42501"] {
        world
            .execute(&format!(
                "create sequence if not exists tries;
                 select setval('tries', 1);
                 create or replace function trouble() returns trigger language plpgsql as $$
                 begin
                     if nextval('tries') < 4 then raise exception 'trouble' using errcode = '{code}'; end if;
                     return new;
                 end $$;
                 drop trigger if exists trouble on order_log;
                 create trigger trouble before insert on order_log for each row when (new.to_status = 'closed') execute function trouble()"
            ))
            .await;
        let order = world.overdue_order("tea").await;
        foreign.due_now(order.id.as_str().as_bytes()).await;
        world.becomes(&order.id, "closed").await;
        assert_eq!(world.number("select last_value from tries").await, 4, "{code}: in place, or by a lane");
    }
    assert_eq!(worker.counted().parked, 0);
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_ends_while_a_batch_is_in_hand_is_renewed() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let renew_idle_after = Duration::from_millis(500);
    let worker = world.worker_with(PipelineSettings { pipelines: 1, renew_idle_after, ..PipelineSettings::default() });
    let foreign = world.foreign().await;
    for _ in 0..10 {
        let warm = world.overdue_order("tea").await;
        foreign.due_now(warm.id.as_str().as_bytes()).await;
        world.becomes(&warm.id, "closed").await;
    }
    let (in_hand, buffered) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let gate = world.gate("insert on order_log").await;
    foreign.due_now(in_hand.id.as_str().as_bytes()).await;
    eventually("a batch is in hand", async || world.waiting_for_locks().await == 1).await;
    foreign.due_now(buffered.id.as_str().as_bytes()).await;
    foreign.queue_holds("overdue.v1.due.payment", 0).await;
    // RabbitMQ 3.10 does not even tell the consumer, when the queue is there again so soon.
    management(Method::DELETE, &["queues", &world.vhost, "overdue.v1.due.payment"], None).await;
    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    gate.open().await;
    world.becomes(&in_hand.id, "closed").await;
    let later = world.overdue_order("tea").await;
    foreign.due_now(later.id.as_str().as_bytes()).await;
    world.becomes(&later.id, "closed").await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_takes_too_long_is_halved_until_it_does_not() {
    let mut world = World::new().await;
    world.statement_timeout = Duration::from_millis(1000);
    world.stock("tea", 50).await;
    world
        .execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return new; end $$;
             create trigger slow before insert on order_log for each row when (new.to_status = 'closed') execute function slow()",
        )
        .await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(format!("{{\"id\":\"{}\"}}", world.overdue_order("tea").await.id));
    }
    let body = format!("{{\"v\":1,\"orders\":[{}]}}", ids.join(","));
    world.foreign().await.due_now(body.as_bytes()).await;
    let worker = world.worker();
    eventually("all are closed", async || worker.counted().closed == 40).await;
    assert_eq!(worker.counted().parked, 0);
    world.audit().await;
    worker.stop().await;
    world.close().await;
}
