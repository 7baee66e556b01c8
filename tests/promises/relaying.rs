//! The outbox reaches the broker, whole, whatever happens to a relay.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use order::OrderId;
use relay::RelaySettings;
use tests::{World, eventually};

const LATER: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn orders_due_together_share_messages() {
    let world = World::new().await;
    world.stock("tea", 1000).await;
    join_all((0..300).map(|_| world.order("tea", LATER))).await;
    world.execute("update outbox set due_at = (select max(due_at) from outbox)").await;
    let relay = world.relay();
    eventually("all are sent", async || relay.relayed() == (300, 0)).await;
    assert_eq!(world.number("select count(*) from outbox").await, 0);
    world.foreign().await.queue_holds("overdue.v1.delay.30m", 2).await;
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_relays_share_the_work() {
    let world = World::new().await;
    world.stock("tea", 1000).await;
    join_all((0..400).map(|_| world.order("tea", LATER))).await;
    let settings = RelaySettings { claim_orders_max: 10, ..RelaySettings::default() };
    let relays = [world.relay_with(settings.clone()), world.relay_with(settings.clone()), world.relay_with(settings)];
    eventually("all are sent", async || world.number("select count(*) from outbox").await == 0).await;
    // A relay counts what it has sent once its rows are gone.
    eventually("each order was sent by one relay", async || {
        relays.iter().map(|relay| relay.relayed().0).sum::<u64>() == 400
    })
    .await;
    for relay in relays {
        relay.stop().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_message_does_not_count_as_published() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let foreign = world.foreign().await;
    // A message that no queue wants is confirmed all the same, and returned.
    let (lane, parked) = ("overdue.v1.delay.30m", "overdue.v1.parked");
    foreign
        .channel
        .queue_unbind(lane.into(), "overdue.lanes".into(), "30m.payment".into(), FieldTable::default())
        .await
        .unwrap();
    let relay = world.relay();
    let lost = world.order("tea", LATER).await;
    // Sent together with it, and routed.
    let fine = world.order("tea", Duration::from_secs(7200)).await;
    eventually("the relay has noticed", async || relay.relayed().1 >= 1).await;
    eventually("the other is sent", async || {
        let left: Vec<String> = sqlx::query_scalar("select order_id from outbox").fetch_all(&world.pool).await.unwrap();
        left == [lost.id.to_string()]
    })
    .await;
    assert_ne!(lost.id, fine.id);

    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    eventually("it is sent after all", async || world.number("select count(*) from outbox").await == 0).await;
    eventually("both are counted", async || relay.relayed().0 == 2).await;
    foreign.queue_holds(parked, 0).await;
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_claim_is_taken_over() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    world.order("tea", LATER).await;
    world.order("tea", LATER).await;
    // One was claimed by a relay that is gone, the other by one that is at it.
    world.execute("update outbox set claimed_until = clock_timestamp() - interval '1 second' where id = 1").await;
    world.execute("update outbox set claimed_until = clock_timestamp() + interval '1 hour' where id = 2").await;
    let relay = world.relay();
    eventually("the first is sent", async || relay.relayed() == (1, 0)).await;
    assert_eq!(world.number("select id from outbox").await, 2, "the other is left alone");
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arming_is_part_of_the_callers_transaction() {
    let world = World::new().await;
    let deadline = "2030-01-01T00:00:00Z".parse().unwrap();
    let mut given_up = world.pool.begin().await.unwrap();
    outbox::arm(&mut given_up, &OrderId::new("given-up").unwrap(), deadline).await.unwrap();
    given_up.rollback().await.unwrap();
    let mut kept = world.pool.begin().await.unwrap();
    outbox::arm(&mut kept, &OrderId::new("kept").unwrap(), deadline).await.unwrap();
    assert_eq!(world.number("select count(*) from outbox").await, 0, "nothing is visible before the commit");
    kept.commit().await.unwrap();
    let armed: Vec<String> = sqlx::query_scalar("select order_id from outbox").fetch_all(&world.pool).await.unwrap();
    assert_eq!(armed, ["kept"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arming_costs_the_shop_an_insert_and_no_more() {
    let world = World::new().await;
    // A notification would have all commits of the PostgreSQL cluster wait for one lock.
    let wakers = "select count(*) from pg_trigger where tgrelid = 'outbox'::regclass and not tgisinternal";
    assert_eq!(world.number(wakers).await, 0);
    world.stock("tea", 10).await;
    let relay = world.relay();
    for sent in 1..=3 {
        world.order("tea", LATER).await;
        eventually("it is sent all the same", async || relay.relayed() == (sent, 0)).await;
    }
    let listens = "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'";
    assert_eq!(world.number(listens).await, 0);
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_old_transaction_might_still_see_are_not_stepped_over_again_and_again() {
    const DEAD: i64 = 100_000;
    const CLAIM: usize = 500;
    const LOOKS: usize = 40;
    let world = World::new().await;
    let mut old = world.pool.begin().await.unwrap();
    // It has a number and a snapshot, as a long report that writes its result.
    sqlx::query("create table report as select count(*) from orders").execute(&mut *old).await.unwrap();
    sqlx::query("declare slow cursor for select * from outbox").execute(&mut *old).await.unwrap();
    let arm = format!(
        "insert into outbox (order_id, due_at) select 'o-' || n, '2030-01-01Z' from generate_series(1, {DEAD}) n"
    );
    world.execute(&arm).await;
    let relay = world.relay_with(RelaySettings { claim_orders_max: CLAIM, ..RelaySettings::default() });
    eventually("they have gone out", async || relay.relayed().0 == DEAD as u64).await;
    let gone_out = Instant::now();
    // Rows of transactions that take no longer are looked for. The statistics of a connection are told with a delay, too.
    eventually("two seconds have passed", async || gone_out.elapsed() > Duration::from_secs(2)).await;
    let read = async || {
        world.number("select idx_tup_read from pg_stat_user_indexes where indexrelname = 'outbox_timeouts'").await
    };
    let before = read().await;
    let more = CLAIM * LOOKS;
    let arm = format!(
        "insert into outbox (order_id, due_at) select 'n-' || n, '2030-01-01Z' from generate_series(1, {more}) n"
    );
    world.execute(&arm).await;
    eventually("all have gone out", async || relay.relayed().0 == DEAD as u64 + more as u64).await;
    relay.stop().await;
    eventually("what was read is told", async || read().await > before).await;
    let read = read().await - before;
    assert!(read < DEAD * LOOKS as i64 / 2, "{LOOKS} looks have read {read} rows");
    drop(old);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_refuses_and_the_order_stays_in_the_outbox() {
    let world = World::new().await;
    world.stock("tea", 10).await;
    let foreign = world.foreign().await;
    // A limit that an administrator set on one lane: reject-publish then refuses, with a nack.
    tests::management(
        reqwest::Method::PUT,
        &["policies", &world.vhost, "full"],
        Some(serde_json::json!({ "pattern": "30m$", "apply-to": "queues", "definition": { "max-length": 1 } })),
    )
    .await;
    // The limit takes a moment to come into effect.
    let refused = async || {
        let options = BasicPublishOptions::default();
        let (exchange, key) = ("overdue.lanes".into(), "30m.payment".into());
        let confirm =
            foreign.channel.basic_publish(exchange, key, options, b"842317", BasicProperties::default()).await;
        confirm.expect("published").await.expect("confirmed").is_nack()
    };
    eventually("the lane refuses", refused).await;
    let relay = world.relay();
    world.order("tea", LATER).await;
    eventually("the relay has been refused", async || relay.relayed().1 >= 1).await;
    assert_eq!(world.number("select count(*) from outbox").await, 1);
    // Other lanes go on.
    world.order("tea", Duration::from_secs(7200)).await;
    eventually("the other is sent", async || relay.relayed().0 == 1).await;
    tests::management(reqwest::Method::DELETE, &["policies", &world.vhost, "full"], None).await;
    eventually("all are sent after all", async || world.number("select count(*) from outbox").await == 0).await;
    eventually("both are counted", async || relay.relayed().0 == 2).await;
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_persistent_and_leaves_its_lane_before_its_moment() {
    let mut world = World::with_timeouts(&["2s"]).await;
    world.lanes = world.lanes.clone().with_ours(["2s".parse().unwrap()]);
    world.stock("tea", 10).await;
    let order = world.order("tea", Duration::from_secs(20)).await;
    let relay = world.relay();
    eventually("it is sent", async || relay.relayed().0 == 1).await;
    let foreign = world.foreign().await;
    foreign.queue_holds("overdue.v1.due.payment", 1).await;
    let due = "overdue.v1.due.payment".into();
    let message =
        foreign.channel.basic_get(due, BasicGetOptions::default()).await.unwrap().expect("it is due").delivery;
    assert_eq!(*message.properties.delivery_mode(), Some(2));
    let body = format!(r#"{{"v":1,"orders":[{{"id":"{}","due":"{}"}}]}}"#, order.id, order.deadline);
    assert_eq!(String::from_utf8(message.data).unwrap(), body);
    // The broker takes the expiration off when it dead-letters, and notes it.
    let headers = message.properties.headers().clone().expect("headers");
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
    let AMQPValue::FieldTable(death) = &deaths.as_slice()[0] else { panic!("{deaths:?}") };
    let Some(AMQPValue::LongString(expiration)) = death.inner().get("original-expiration") else { panic!("{death:?}") };
    // A tenth less than the TTL, so that one that is sent a little later still fits in behind it.
    assert_eq!(expiration.to_string(), "1800");
    relay.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_keeps_its_limit_whatever_the_statistics_say() {
    let world = World::new().await;
    // The outbox is empty most of the time, and that is what the planner believes of it.
    world.execute("vacuum analyze outbox").await;
    world.execute("insert into outbox (order_id, due_at) select 'o' || g, now() + interval '1 hour' from generate_series(1, 3000) g").await;
    let gate = world.gate("delete on outbox").await;
    let relay = world.relay_with(RelaySettings { claim_orders_max: 100, ..RelaySettings::default() });
    eventually("the relay is about to delete", async || world.waiting_for_locks().await == 1).await;
    assert_eq!(world.number("select count(*) from outbox where claimed_until is not null").await, 100);
    gate.open().await;
    eventually("all are sent", async || relay.relayed() == (3000, 0)).await;
    relay.stop().await;
    world.close().await;
}
