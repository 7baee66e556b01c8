//! Timers: armed in the transaction of their owner, moved, cancelled, fired once in effect, whatever comes in between.

use std::collections::HashSet;
use std::time::Duration;

use book::{Firing, Timers};
use database::Purpose;
use lapin::BasicProperties;
use order::{Deadline, TimerId, TimerState};
use outbox::{Timer, TimerDue, arm_timer, cancel_timer, timer};
use serde_json::{Value, json};
use tests::{Foreign, Roles, World, eventually};
use time::OffsetDateTime;
use worker::OutcomeKind;

use crate::events::{assert_message, document};

const SUBSCRIBER: &str = "timers";

fn id(name: &str) -> TimerId {
    name.parse().unwrap()
}

async fn arm(world: &World, name: &str, after: Duration) {
    arm_timer(&mut *world.connection().await, &id(name), TimerDue::After(after), None).await.unwrap();
}

async fn look(world: &World, name: &str) -> Timer {
    timer(&mut *world.connection().await, &id(name)).await.unwrap().unwrap()
}

async fn fires(world: &World, name: &str) -> Timer {
    eventually(&format!("{name} fires"), async || look(world, name).await.state == TimerState::Fired).await;
    look(world, name).await
}

const WAITING: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

async fn outbox(world: &World) -> i64 {
    world.number("select count(*) from outbox").await
}

/// The IDs of events in the outbox, in their order.
async fn event_ids(world: &World) -> Vec<String> {
    let ids = "select e->>'id' from outbox, json_array_elements(data) e where event = 'batch' order by outbox.id";
    sqlx::query_scalar(ids).fetch_all(&mut *world.connection().await).await.unwrap()
}

/// A subscriber of all events of timers.
async fn listening(world: &World) -> Foreign {
    let foreign = world.foreign().await;
    foreign.subscribe(SUBSCRIBER, "timer.*").await;
    foreign
}

/// The next events.
async fn events(foreign: &Foreign, count: usize) -> Vec<Value> {
    let messages = foreign.take(SUBSCRIBER, count).await;
    messages.iter().map(|message| serde_json::from_slice(&message.body).unwrap()).collect()
}

struct Working(Roles, Roles);

fn working(world: &World) -> Working {
    Working(world.relay(), world.worker())
}

impl Working {
    fn timers(&self, kind: OutcomeKind) -> u64 {
        self.1.timers(kind)
    }

    async fn stop(self) {
        self.0.stop().await;
        self.1.stop().await;
    }
}

#[tokio::test]
async fn a_timer_fires_when_it_is_due_and_tells_of_it_once() {
    let world = World::new().await;
    let foreign = listening(&world).await;
    let working = working(&world);
    let data = r#"{"to":"+31 6","text":"two \u0000 and €"}"#;
    let due = Deadline::at(OffsetDateTime::now_utc() + Duration::from_millis(1_500));
    let mut connection = world.connection().await;
    let revision = arm_timer(&mut connection, &id("sms:842317"), TimerDue::At(due), Some(data)).await.unwrap();
    assert_eq!(revision, 1);
    let fired = fires(&world, "sms:842317").await;
    assert!(fired.fired_at.unwrap() >= due.instant(), "not before its time");
    let [event] = &events(&foreign, 1).await[..] else { panic!("one event") };
    assert_message(&document(), "TimerFired", "payload", event);
    assert_eq!(
        (&event["type"], &event["id"], &event["subject"]),
        (&json!("timer.sms"), &json!("timer:sms:842317:1"), &json!("842317"))
    );
    let told = &event["data"];
    assert_eq!((&told["kind"], &told["subject"], &told["revision"]), (&json!("sms"), &json!("842317"), &json!(1)));
    assert_eq!(told["data"], serde_json::from_str::<Value>(data).unwrap());
    assert_eq!(event["time"], Value::from(Deadline::at(fired.fired_at.unwrap()).to_string()));
    // Many messages of it change nothing.
    for _ in 0..10 {
        foreign.publish("overdue.lanes", "now.timer", b"sms:842317", BasicProperties::default()).await;
    }
    eventually("the duplicates are looked at", async || working.1.counted().messages == 11).await;
    assert!(working.timers(OutcomeKind::Unchanged) > 0);
    assert_eq!((working.timers(OutcomeKind::Fired), outbox(&world).await), (1, 0));
    working.stop().await;
    drop(connection);
    // What travels is as the document says, too.
    let relay = world.relay();
    arm(&world, "sms:1", Duration::from_secs(1800)).await;
    foreign.queue_holds("overdue.v1.delay.30m", 1).await;
    let timeout = foreign.take("overdue.v1.delay.30m", 1).await.remove(0);
    assert_message(&document(), "TimerTimeout", "payload", &serde_json::from_slice(&timeout.body).unwrap());
    relay.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_timer_exists_exactly_if_its_transaction_commits() {
    let world = World::new().await;
    let mut connection = world.connection().await;
    let mut transaction = sqlx::Connection::begin(&mut *connection).await.unwrap();
    arm_timer(&mut transaction, &id("receipt:1"), TimerDue::After(Duration::ZERO), None).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!((timer(&mut connection, &id("receipt:1")).await.unwrap(), outbox(&world).await), (None, 0));
    drop(connection);
    arm(&world, "receipt:1", Duration::from_secs(3600)).await;
    assert_eq!(outbox(&world).await, 1);
    world.close().await;
}

#[tokio::test]
async fn the_last_call_wins_and_the_same_call_changes_nothing() {
    let world = World::new().await;
    let mut connection = world.connection().await;
    let at = |in_s| TimerDue::At(Deadline::at(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000 + in_s)));
    let steps: [(u64, Option<&str>, i64, i64); 6] = [
        (100, None, 1, 1),
        (100, None, 1, 1),
        // Later: its message comes too early, and waits on.
        (200, None, 2, 1),
        // Earlier: it needs a message of its own.
        (50, None, 3, 2),
        (50, Some("[1]"), 4, 2),
        (50, Some("[1]"), 4, 2),
    ];
    for (in_s, data, revision, rows) in steps {
        assert_eq!(arm_timer(&mut connection, &id("receipt:1"), at(in_s), data).await.unwrap(), revision, "{in_s}");
        assert_eq!(outbox(&world).await, rows, "{in_s} {data:?}");
    }
    assert!(cancel_timer(&mut connection, &id("receipt:1")).await.unwrap());
    assert!(cancel_timer(&mut connection, &id("receipt:1")).await.unwrap(), "again");
    assert!(!cancel_timer(&mut connection, &id("receipt:2")).await.unwrap(), "there is none");
    assert_eq!(outbox(&world).await, 2);
    assert_eq!(arm_timer(&mut connection, &id("receipt:1"), at(50), Some("[1]")).await.unwrap(), 5, "armed anew");
    assert_eq!(outbox(&world).await, 3);
    drop(connection);
    world.close().await;
}

#[tokio::test]
async fn early_moved_cancelled_stale_forged_and_unknown_timers_are_harmless() {
    let world = World::new().await;
    let foreign = listening(&world).await;
    for (name, after_s) in [("early:1", 3600), ("moved:1", 1), ("cancelled:1", 1), ("pulled:1", 3600)] {
        arm(&world, name, Duration::from_secs(after_s)).await;
    }
    let working = working(&world);
    eventually("all are sent", async || outbox(&world).await == 0).await;
    arm(&world, "moved:1", Duration::from_secs(3600)).await;
    arm(&world, "pulled:1", Duration::from_millis(100)).await;
    assert!(cancel_timer(&mut *world.connection().await, &id("cancelled:1")).await.unwrap());
    // As a foreign publisher would: what it says of the time counts for nothing.
    let forged =
        br#"{"v":1,"orders":[{"id":"early:1","due":"2000-01-01T00:00:00Z"},{"id":"nobody:1"},{"id":"842317"}]}"#;
    foreign.publish("overdue.delay", "1s.timer", forged, BasicProperties::default()).await;
    fires(&world, "pulled:1").await;
    eventually("each is looked at", async || {
        working.timers(OutcomeKind::Waiting) >= 2 && working.timers(OutcomeKind::Unchanged) >= 1
    })
    .await;
    let parked = foreign.parked(1).await;
    assert_eq!(parked[0].reason(), "illegal_timer_id");
    eventually("the unknown one is looked for again", async || working.timers(OutcomeKind::LookedAtAgain) >= 1).await;
    for name in ["early:1", "moved:1"] {
        assert_eq!(look(&world, name).await.state, TimerState::Armed, "{name}");
    }
    let ids: Vec<Value> = events(&foreign, 1).await.iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ids, [json!("timer:pulled:1:2")]);
    working.stop().await;
    world.close().await;
}

/// Loads a timer as the worker does, lets somebody change it, and fires it as it was loaded.
async fn fire_as_loaded(world: &World, name: &str, change: impl AsyncFnOnce()) -> bool {
    let timers = Timers::new(world.client(2, Purpose::Settle));
    let loaded = timers.load(&[id(name)]).await.unwrap();
    let book::ItemReply::Done(facts) = loaded.items[&id(name)] else { panic!("{name} is there") };
    change().await;
    let firing = Firing { id: id(name), due: facts.due, revision: facts.revision };
    let fired = timers.fire(&[firing], None).await.unwrap();
    matches!(fired.items.get(&id(name)), Some(book::ItemReply::Done(_)))
}

#[tokio::test]
async fn what_is_armed_anew_moved_or_cancelled_between_load_and_fire_does_not_fire_as_it_was() {
    let world = World::new().await;
    arm(&world, "plain:1", Duration::ZERO).await;
    assert!(fire_as_loaded(&world, "plain:1", async || {}).await);
    arm(&world, "moved:1", Duration::ZERO).await;
    assert!(!fire_as_loaded(&world, "moved:1", async || arm(&world, "moved:1", Duration::from_secs(60)).await).await);
    arm(&world, "cancelled:1", Duration::ZERO).await;
    let cancel = async || assert!(cancel_timer(&mut *world.connection().await, &id("cancelled:1")).await.unwrap());
    assert!(!fire_as_loaded(&world, "cancelled:1", cancel).await);
    // Fired by another, and armed anew with other data for the same moment: that is another revision.
    arm(&world, "again:1", Duration::ZERO).await;
    let due = look(&world, "again:1").await.due_at;
    let again = async || {
        assert!(fire_as_loaded(&world, "again:1", async || {}).await);
        let due = TimerDue::At(Deadline::at(due));
        let mut connection = world.connection().await;
        let same = arm_timer(&mut connection, &id("again:1"), due, None).await.unwrap();
        assert_eq!(same, 1, "the same call may come twice: its answer was lost");
        assert_eq!(arm_timer(&mut connection, &id("again:1"), due, Some("1")).await.unwrap(), 2);
    };
    assert!(!fire_as_loaded(&world, "again:1", again).await);
    assert!(fire_as_loaded(&world, "again:1", async || {}).await);
    let ids: HashSet<String> = event_ids(&world).await.into_iter().collect();
    let expected = ["timer:plain:1:1", "timer:again:1:1", "timer:again:1:2"].map(str::to_owned);
    assert_eq!(ids, HashSet::from(expected));
    world.close().await;
}

#[tokio::test]
async fn arming_at_the_moment_of_firing_gives_each_revision_one_event() {
    let world = World::new().await;
    let timers = Timers::new(world.client(2, Purpose::Settle));
    // The owner's transaction holds the row while the worker comes to fire it.
    arm(&world, "held:1", Duration::ZERO).await;
    let mut connection = world.connection().await;
    let mut transaction = sqlx::Connection::begin(&mut *connection).await.unwrap();
    let due = TimerDue::After(Duration::ZERO);
    assert_eq!(arm_timer(&mut transaction, &id("held:1"), due, Some("2")).await.unwrap(), 2);
    let loaded = timers.load(&[id("held:1")]).await.unwrap();
    let book::ItemReply::Done(facts) = loaded.items[&id("held:1")] else { panic!("it is there") };
    let firing = Firing { id: id("held:1"), due: facts.due, revision: facts.revision };
    assert_eq!(firing.revision, 1, "what is not committed is not seen");
    let fired = timers.fire(std::slice::from_ref(&firing), None).await.unwrap();
    assert!(matches!(fired.items[&id("held:1")], book::ItemReply::Locked(_)));
    transaction.commit().await.unwrap();
    let fired = timers.fire(&[firing], None).await.unwrap();
    assert!(matches!(fired.items[&id("held:1")], book::ItemReply::Changed), "it stands otherwise now");
    assert!(fire_as_loaded(&world, "held:1", async || {}).await);
    assert_eq!(event_ids(&world).await, ["timer:held:1:2"]);

    // The worker was first: the owner waits for it, and arms anew.
    arm(&world, "first:1", Duration::ZERO).await;
    let mut other = world.connection().await;
    let mut firing = sqlx::Connection::begin(&mut *other).await.unwrap();
    sqlx::query("update timers set state = 'fired', fired_at = clock_timestamp() where kind = 'first'")
        .execute(&mut *firing)
        .await
        .unwrap();
    let first = id("first:1");
    let arming = arm_timer(&mut connection, &first, due, None);
    let committing = async {
        eventually("the owner waits", async || world.number(WAITING).await == 1).await;
        firing.commit().await.unwrap();
    };
    let (revision, ()) = tokio::join!(arming, committing);
    assert_eq!(revision.unwrap(), 2);
    assert_eq!(look(&world, "first:1").await.state, TimerState::Armed);
    drop((connection, other));
    world.close().await;
}

#[tokio::test]
async fn a_crowd_that_arms_cancels_and_fires_loses_no_revision_and_tells_none_twice() {
    let world = World::new().await;
    let foreign = listening(&world).await;
    let working = working(&world);
    let rounds = 40;
    let crowd = (0..4).map(async |member: u32| {
        for round in 0..rounds {
            let data = format!("[{member},{round}]");
            let mut connection = world.connection().await;
            arm_timer(&mut connection, &id("hot:1"), TimerDue::After(Duration::ZERO), Some(&data)).await.unwrap();
        }
    });
    futures_util::future::join_all(crowd).await;
    let last = fires(&world, "hot:1").await;
    let fired = working.timers(OutcomeKind::Fired);
    eventually("all is sent", async || outbox(&world).await == 0).await;
    let ids: Vec<String> = events(&foreign, usize::try_from(fired).unwrap())
        .await
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    let different: HashSet<&String> = ids.iter().collect();
    assert_eq!((different.len(), ids.len()), (ids.len(), usize::try_from(fired).unwrap()), "{ids:?}");
    assert!(ids.contains(&format!("timer:hot:1:{}", last.revision)), "the last was told");
    working.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_timer_that_another_transaction_holds_for_long_delays_itself_alone() {
    let world = World::new().await;
    for name in ["held:1", "free:1", "free:2"] {
        arm(&world, name, Duration::ZERO).await;
    }
    let mut connection = world.connection().await;
    let mut transaction = sqlx::Connection::begin(&mut *connection).await.unwrap();
    sqlx::query("select from timers where kind = 'held' for update").execute(&mut *transaction).await.unwrap();
    let working = working(&world);
    fires(&world, "free:1").await;
    fires(&world, "free:2").await;
    eventually("it is put off", async || working.timers(OutcomeKind::LookedAtAgain) >= 1).await;
    transaction.rollback().await.unwrap();
    fires(&world, "held:1").await;
    working.stop().await;
    drop(connection);
    world.close().await;
}

#[tokio::test]
async fn timers_with_much_data_fit_into_messages_however_many_fire_together() {
    let world = World::new().await;
    let foreign = listening(&world).await;
    world
        .execute(
            "insert into timers (kind, subject, due_at, data)
             select 'big', n::text, now() - interval '1 minute', to_json(repeat('x', 8190)) from generate_series(1, 300) n",
        )
        .await;
    let working = working(&world);
    let ids: HashSet<String> =
        events(&foreign, 300).await.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), world.number("select count(*) from parked").await), (300, 0));
    working.stop().await;
    world.close().await;
}

#[tokio::test]
async fn the_timers_of_a_subject_are_found_by_their_index_whatever_the_statistics_say() {
    let world = World::new().await;
    world
        .execute(
            "insert into timers (kind, subject, due_at, state, fired_at)
             select 'old', n::text, now(), 'fired', now() from generate_series(1, 20000) n; analyze timers",
        )
        .await;
    let mut connection = world.connection().await;
    sqlx::query("set plan_cache_mode = force_generic_plan").execute(&mut *connection).await.unwrap();
    let filter = outbox::TimerFilter { subject: Some("7".to_owned()), ..Default::default() };
    let scans =
        async || world.number("select coalesce(seq_scan, 0) from pg_stat_user_tables where relname = 'timers'").await;
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let before = scans().await;
    assert_eq!(outbox::timers(&mut connection, &filter, 10).await.unwrap().len(), 1);
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    assert_eq!(scans().await, before, "all timers were read");
    drop(connection);
    world.close().await;
}

#[tokio::test]
async fn a_timer_that_is_armed_for_the_past_is_late_from_its_arming_on_and_no_case_for_the_sweep() {
    let world = World::new().await;
    let timers = Timers::new(world.client(2, Purpose::Settle));
    let long_ago = TimerDue::At("2000-01-01T00:00:00Z".parse().unwrap());
    arm_timer(&mut *world.connection().await, &id("past:1"), long_ago, None).await.unwrap();
    let page = book::PageRequest { grace: Duration::from_secs(60), after: None, orders_max: 10 };
    assert!(timers.overdue(&page).await.unwrap().ids.is_empty());
    world.audit().await;
    let loaded = timers.load(&[id("past:1")]).await.unwrap();
    let book::ItemReply::Done(facts) = loaded.items[&id("past:1")] else { panic!("it is there") };
    let firing = Firing { id: id("past:1"), due: facts.due, revision: facts.revision };
    let fired = timers.fire(&[firing], None).await.unwrap();
    let book::ItemReply::Done(fired) = fired.items[&id("past:1")] else { panic!("it has fired") };
    assert!(fired.lateness < Duration::from_secs(60), "{fired:?}");
    world.close().await;
}

#[tokio::test]
async fn what_is_cancelled_by_plain_sql_is_kept_as_long_as_what_was_cancelled_by_the_function() {
    let world = World::new().await;
    let timers = Timers::new(world.client(2, Purpose::Settle));
    arm(&world, "old:1", Duration::from_secs(3600)).await;
    world.execute("update timers set changed_at = now() - interval '1 year', state = 'armed'").await;
    world.execute("update timers set state = 'cancelled'").await;
    assert_eq!(timers.delete_ended(Duration::from_hours(1), 10).await.unwrap(), 0);
    assert_eq!(timers.delete_ended(Duration::ZERO, 10).await.unwrap(), 1);
    world.close().await;
}

#[tokio::test]
async fn bad_calls_say_what_is_wrong_and_change_nothing() {
    let world = World::new().await;
    let mut connection = world.connection().await;
    for (call, words) in [
        ("overdue_arm('Receipt', '1', now())", "'Receipt' is not a kind of timer"),
        ("overdue_arm('payment', '1', now())", "'payment' is not a kind of timer"),
        ("overdue_arm(null, '1', now())", "null is not a kind of timer"),
        ("overdue_arm('receipt', 'a b', now())", "'a b' is not a subject of a timer"),
        ("overdue_arm('receipt', repeat('9', 65), now())", "is not a subject of a timer"),
        ("overdue_arm('receipt', '1', null)", "a timer cannot be due at null"),
        ("overdue_arm('receipt', '1', '9999-12-31Z')", "a timer cannot be due at 9999-12-31"),
        ("overdue_arm('receipt', '1', 'infinity')", "a timer cannot be due at infinity"),
        ("overdue_arm('receipt', '1', now(), to_json(repeat('x', 8191)))", "at most 8192 bytes, these are 8193"),
    ] {
        let error =
            sqlx::query(sqlx::AssertSqlSafe(format!("select {call}"))).execute(&mut *connection).await.unwrap_err();
        let error = error.into_database_error().unwrap();
        assert!(error.message().contains(words), "{call}: {}", error.message());
        assert_eq!(error.code().unwrap(), "OV004", "{call}");
    }
    for cancel in ["overdue_cancel('Receipt', '1')", "overdue_cancel(null, null)", "overdue_cancel('payment', '1', 7)"]
    {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {cancel}")));
        let cancelled: bool = query.fetch_one(&mut *connection).await.unwrap();
        assert!(!cancelled, "{cancel}");
    }
    let fits = "select overdue_arm('receipt', '1', 'yesterday', to_json(repeat('x', 8190)))";
    let revision: i64 = sqlx::query_scalar(fits).fetch_one(&mut *connection).await.unwrap();
    let count: i64 = sqlx::query_scalar("select count(*) from timers").fetch_one(&mut *connection).await.unwrap();
    assert_eq!((revision, count), (1, 1));
    let working = working(&world);
    fires(&world, "receipt:1").await;
    working.stop().await;
    drop(connection);
    world.close().await;
}

#[tokio::test]
async fn commands_that_overtake_each_other_end_as_the_sender_meant() {
    let world = World::new().await;
    let mut connection = world.connection().await;
    let mut call = async |call: &str| {
        sqlx::query(sqlx::AssertSqlSafe(format!("select {call}"))).execute(&mut *connection).await.unwrap();
    };
    call("overdue_arm('receipt', '1', '2100-01-01Z', '2', 2)").await;
    call("overdue_arm('receipt', '1', '2200-01-01Z', '1', 1)").await;
    call("overdue_arm('receipt', '1', '2200-01-01Z', '2', 2)").await;
    // The cancellation comes before what it cancels.
    call("overdue_cancel('receipt', '2', 8)").await;
    call("overdue_arm('receipt', '2', '2100-01-01Z', null, 7)").await;
    call("overdue_cancel('receipt', '1', 1)").await;
    let shown = |timer: Timer| (timer.state, timer.revision, timer.data);
    assert_eq!(shown(look(&world, "receipt:1").await), (TimerState::Armed, 1, Some("2".to_owned())));
    assert_eq!(look(&world, "receipt:2").await.state, TimerState::Cancelled);
    call("overdue_arm('receipt', '2', '2100-01-01Z', null, 9)").await;
    call("overdue_cancel('receipt', '1', 3)").await;
    assert_eq!(look(&world, "receipt:2").await.state, TimerState::Armed);
    assert_eq!(look(&world, "receipt:1").await.state, TimerState::Cancelled);
    drop(connection);
    world.close().await;
}
