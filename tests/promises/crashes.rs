//! The program is killed (SIGKILL) or stopped at the worst moments. The moments are forced: a gate in the
//! database, or a network that holds up what is sent.

use std::time::Duration;

use futures_util::future::join_all;
use tests::{Proxy, World, eventually};
use url::Url;

const LATER: Duration = Duration::from_secs(3660);

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_between_publish_and_delete_does_no_harm() {
    let world = World::with_timeouts(&["3s"]).await;
    world.stock("tea", 5).await;
    let gate = world.gate("delete on outbox").await;
    let short_lease = ["run", "--only", "relay", "--claim-lease", "500ms", "--confirm-timeout", "400ms"];
    let relay = world.start(&short_lease);
    relay.says("running").await;
    let order = world.order("tea", Duration::from_secs(3)).await;
    eventually("the relay is about to delete", async || world.waiting_for_locks().await == 1).await;
    let foreign = world.foreign().await;
    foreign.queue_holds("overdue.v1.due.payment", 1).await;
    relay.kill().await;
    world.disconnect_everybody().await;
    gate.open().await;
    assert_eq!(world.number("select count(*) from outbox").await, 1, "the row is still there");

    let relay = world.start(&short_lease);
    eventually("the row is sent once more", async || world.number("select count(*) from outbox").await == 0).await;
    foreign.queue_holds("overdue.v1.due.payment", 2).await;
    let worker = world.worker();
    eventually("both messages are handled", async || worker.counted().messages == 2).await;
    world.becomes(&order.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (5, 0));
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 1);
    world.audit().await;
    worker.stop().await;
    relay.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_before_the_commit_loses_nothing() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let gate = world.gate("insert on order_log").await;
    let doomed = world.start(&["run", "--only", "worker"]);
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("the close is on its way", async || world.waiting_for_locks().await == 1).await;
    doomed.kill().await;
    world.disconnect_everybody().await;
    gate.open().await;
    assert_eq!(world.status(&order.id).await, "pending", "nothing was committed");

    let worker = world.worker();
    world.becomes(&order.id, "closed").await;
    assert_eq!(world.shelf("tea").await, (5, 0));
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_commit_and_ack_closes_once() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let gate = world.gate("insert on order_log").await;
    let mut url: Url = world.amqp_url.parse().unwrap();
    let proxy = Proxy::to(&format!("127.0.0.1:{}", url.port().unwrap())).await;
    url.set_port(Some(proxy.port())).unwrap();
    let mut command = world.command(&["run", "--only", "worker"]);
    command.env("OVERDUE_AMQP_URL", url.as_str());
    let doomed = world.start_command(command);
    let foreign = world.foreign().await;
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the close is on its way", async || world.waiting_for_locks().await == 1).await;
    // From now on no ack can arrive.
    proxy.hold_requests();
    gate.open().await;
    world.becomes(&order.id, "closed").await;
    doomed.kill().await;
    proxy.cut();

    let worker = world.worker();
    eventually("the message has come again", async || worker.counted().messages == 1).await;
    assert_eq!((worker.counted().closed, worker.counted().unchanged), (0, 1));
    assert_eq!(world.shelf("tea").await, (5, 0), "released once");
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 1);
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_not_acked_before_its_follow_up_is_confirmed() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", LATER).await;
    world.execute("delete from outbox").await;
    let foreign = world.foreign().await;
    // The early message must go back to this lane, which is not to be reached.
    let lane = "overdue.v1.delay.1h";
    let nothing = lapin::types::FieldTable::default;
    foreign.channel.queue_unbind(lane.into(), "overdue.lanes".into(), "1h.payment".into(), nothing()).await.unwrap();
    let worker = world.worker();
    foreign.due_now(order.id.as_str().as_bytes()).await;
    eventually("the follow-up has come back", async || worker.counted().held >= 1).await;
    assert_eq!(worker.counted().messages, 0, "not acked");
    broker::declare(&broker::Topology::new(&world.lanes), &world.broker()).await.unwrap();
    eventually("it is acked", async || worker.counted().messages == 1).await;
    foreign.queue_holds(lane, 1).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_finishes_acks_and_loses_nothing() {
    let world = World::new().await;
    world.stock("tea", 1000).await;
    let orders = join_all((0..300).map(|_| world.order("tea", LATER))).await;
    world.execute("update orders set payment_deadline = clock_timestamp(); delete from outbox").await;
    let gate = world.gate("insert on order_log").await;
    let arguments =
        ["run", "--only", "worker", "--pipelines", "2", "--batch-orders-max", "40", "--prefetch-messages", "80"];
    let mut stopped = world.start(&arguments);
    let foreign = world.foreign().await;
    for order in &orders {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    eventually("both pipelines have a batch in hand", async || world.waiting_for_locks().await == 2).await;
    stopped.terminate().await;
    stopped.says("told to stop").await;
    gate.open().await;
    let status = stopped.ended().await;
    assert_eq!(status.code(), Some(0), "{}", stopped.log_text());
    let closed = world.number("select count(*) from orders where status = 'closed'").await;
    assert!((1..300).contains(&closed), "it finished what it had in hand and took no more: {closed} closed");
    // What it closed, it acked; the rest is back in the queue.
    foreign.queue_holds("overdue.v1.due.payment", 300 - u32::try_from(closed).unwrap()).await;

    let worker = world.worker();
    eventually("the rest is closed", async || worker.counted().closed == 300 - closed.unsigned_abs()).await;
    assert_eq!(world.shelf("tea").await, (1000, 0));
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_loses_nothing() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let gate = world.gate("insert on order_log").await;
    let mut stopped = world.start(&["run", "--only", "worker"]);
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("a batch is in hand", async || world.waiting_for_locks().await == 1).await;
    stopped.terminate().await;
    stopped.says("told to stop").await;
    // Signals that come together count as one, so the second is sent until it is heard.
    while !stopped.log_text().contains("told to stop twice") {
        stopped.terminate().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(stopped.ended().await.code(), Some(143));
    gate.open().await;
    let worker = world.worker();
    world.becomes(&order.id, "closed").await;
    world.audit().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_finished_in_time_is_given_up_with_its_own_exit_code() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.overdue_order("tea").await;
    let gate = world.gate("insert on order_log").await;
    let mut stopped = world.start(&["run", "--only", "worker", "--shutdown-timeout", "200ms"]);
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    eventually("a batch is in hand", async || world.waiting_for_locks().await == 1).await;
    stopped.terminate().await;
    assert_eq!(stopped.ended().await.code(), Some(5), "{}", stopped.log_text());
    assert!(stopped.log_text().contains("unfinished messages come again"));
    gate.open().await;
    let worker = world.worker();
    world.becomes(&order.id, "closed").await;
    worker.stop().await;
    world.close().await;
}
