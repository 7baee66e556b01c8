//! What `overdue doctor` says of the servers as they are, not as they were set up; and that its advice, followed to the letter,
//! ends the trouble.

use lapin::options::{
    BasicConsumeOptions, ExchangeBindOptions, ExchangeUnbindOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::{World, eventually, management};

use crate::doctor::{doctor, finds, report};

/// The advice about this, as soon as the doctor gives it.
async fn advice(world: &World, object: &str, problem: &str) -> String {
    let mut found = None;
    eventually(&format!("the doctor says {object}: {problem}"), async || {
        found = look(world, object, problem).await;
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn look(world: &World, object: &str, problem: &str) -> Option<String> {
    let mut findings = report(doctor(world)).await.into_iter();
    let [_, _, advice] = findings.find(|[is, what, _]| is.contains(object) && what.contains(problem))?;
    Some(advice)
}

async fn is_gone(world: &World, object: &str, problem: &str) {
    eventually(&format!("the doctor says no more of {object}"), async || look(world, object, problem).await.is_none())
        .await;
}

async fn text(world: &World, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(&world.pool).await.unwrap()
}

/// Runs each command of SQL that the advice has in backquotes, up to the word "or".
async fn follow(world: &World, advice: &str) {
    let first = advice.split(", or ").next().unwrap();
    let commands: Vec<&str> = first.split('`').skip(1).step_by(2).collect();
    assert!(!commands.is_empty(), "no command in: {advice}");
    for command in commands {
        world.execute(command).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_named_with_their_harm_and_narrowing_them_helps() {
    let world = World::new().await;
    let due = "queue overdue.v1.due.payment";
    for (kind, definition, object, problem) in [
        (
            "policies",
            json!({ "overflow": "drop-head" }),
            "queue overdue.v1.delay.30m",
            "overflow is in effect \"drop-head\", not \"reject-publish\": messages may be lost",
        ),
        (
            "policies",
            json!({ "max-length-bytes": 1000 }),
            due,
            "max-length-bytes is in effect 1000, not null: a full queue",
        ),
        (
            "policies",
            json!({ "dead-letter-routing-key": "x" }),
            "queue overdue.v1.delay.5s",
            "dead-letter-routing-key is in effect \"x\", not null: messages do not find",
        ),
        (
            "operator-policies",
            json!({ "message-ttl": 1000 }),
            "queue overdue.v1.delay.30m",
            "message-ttl is in effect 1000, not 1800000",
        ),
        ("operator-policies", json!({ "delivery-limit": 2 }), due, "delivery-limit is in effect 2, not 20"),
    ] {
        let policy = |pattern: &str| json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        management(Method::PUT, &[kind, &world.vhost, "tidy"], Some(policy(".*"))).await;
        let advice = advice(&world, object, problem).await;
        let named = if kind == "policies" { "the policy tidy" } else { "the operator policy tidy" };
        assert!(advice.contains(named), "{advice}");
        // As the advice has it: so that it does not match overdue.*
        management(Method::PUT, &[kind, &world.vhost, "tidy"], Some(policy("^shop"))).await;
        is_gone(&world, object, problem.split(',').next().unwrap()).await;
        management(Method::DELETE, &[kind, &world.vhost, "tidy"], None).await;
    }
    // An alternate exchange makes publishers believe that what fits no lane was routed.
    let policy =
        json!({ "pattern": "^overdue", "definition": { "alternate-exchange": "amq.fanout" }, "apply-to": "exchanges" });
    management(Method::PUT, &["policies", &world.vhost, "rest"], Some(policy)).await;
    let said = advice(&world, "exchange overdue.lanes", "alternate exchange").await;
    assert!(said.contains("narrow the policy rest"), "{said}");
    management(Method::DELETE, &["policies", &world.vhost, "rest"], None).await;
    is_gone(&world, "exchange overdue.lanes", "alternate").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_and_consumers_of_others_are_named() {
    let world = World::new().await;
    let channel = world.foreign().await.channel;
    let nothing = FieldTable::default;
    // Round and round: what is due goes into its lane again.
    let (due, lanes) = ("overdue.due", "overdue.lanes");
    channel
        .exchange_bind(lanes.into(), due.into(), "#".into(), ExchangeBindOptions::default(), nothing())
        .await
        .unwrap();
    let loops = "binding overdue.due -> overdue.lanes (#)";
    assert_eq!(advice(&world, loops, "round and round").await, "remove it");
    channel
        .exchange_unbind(lanes.into(), due.into(), "#".into(), ExchangeUnbindOptions::default(), nothing())
        .await
        .unwrap();
    is_gone(&world, loops, "").await;
    // The same without an exchange.
    let lane = "overdue.v1.delay.5s";
    channel.queue_bind(lane.into(), due.into(), "#".into(), QueueBindOptions::default(), nothing()).await.unwrap();
    advice(&world, "binding overdue.due -> overdue.v1.delay.5s (#)", "round and round").await;
    channel.queue_unbind(lane.into(), due.into(), "#".into(), nothing()).await.unwrap();
    // A second queue that takes letters.
    let queue = QueueDeclareOptions::default();
    channel.queue_declare("audit-copy".into(), queue, nothing()).await.unwrap();
    channel
        .queue_bind("audit-copy".into(), due.into(), "#".into(), QueueBindOptions::default(), nothing())
        .await
        .unwrap();
    let copies = "binding overdue.due -> audit-copy (#)";
    assert_eq!(advice(&world, copies, "copies messages of ours").await, "remove it");
    channel.queue_unbind("audit-copy".into(), due.into(), "#".into(), nothing()).await.unwrap();
    is_gone(&world, copies, "").await;
    // Events are for everybody.
    let events = "overdue.events".into();
    channel.queue_bind("audit-copy".into(), events, "#".into(), QueueBindOptions::default(), nothing()).await.unwrap();
    // A second consumer that takes letters away.
    let connection = Connection::connect(&world.amqp_url, ConnectionProperties::default()).await.unwrap();
    let thief = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions::default();
    let _taking =
        thief.basic_consume("overdue.v1.due.payment".into(), "thief".into(), options, nothing()).await.unwrap();
    let said = advice(&world, "queue overdue.v1.due.payment", "is consumed by somebody else").await;
    assert!(said.contains("end that consumer"), "{said}");
    connection.close(200, "OK".into()).await.unwrap();
    is_gone(&world, "queue overdue.v1.due.payment", "is consumed by somebody else").await;
    assert!(look(&world, "binding", "").await.is_none());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_it_advises_end_troubles_of_the_database() {
    let world = World::new().await;
    // Somebody else with the sweep's key.
    let mut squatter = PgConnection::connect(&world.database_url).await.unwrap();
    sqlx::query("set application_name = 'nightly batch'").execute(&mut squatter).await.unwrap();
    sqlx::query("select pg_advisory_lock(8031718527447950625)").execute(&mut squatter).await.unwrap();
    let said = advice(&world, "sweep", "application \"nightly batch\"").await;
    follow(&world, &said).await;
    is_gone(&world, "sweep", "somebody else").await;
    // A crash would take back what was confirmed: for the database, for one user in it.
    let database = text(&world, "select current_database()::text").await;
    let user = text(&world, "select current_user::text").await;
    for set in [
        format!("alter database {database} set synchronous_commit = off"),
        format!("alter role {user} in database {database} set synchronous_commit = off"),
    ] {
        world.execute(&set).await;
        let said = advice(&world, "setting synchronous_commit", "is off for").await;
        follow(&world, &said).await;
        is_gone(&world, "setting synchronous_commit", "").await;
    }
    // A trigger of our name that stands on another table, or is switched off.
    world
        .execute(
            "alter table orders disable trigger order_ended; create table other (status text);
        create trigger order_ended after update of status on other for each row execute function overdue_order_ended()",
        )
        .await;
    let said = advice(&world, "trigger order_ended", "on the table orders").await;
    follow(&world, &said).await;
    is_gone(&world, "trigger order_ended", "").await;
    world.execute("alter table orders disable trigger order_moved").await;
    let said = advice(&world, "trigger order_moved", "by hand").await;
    follow(&world, &said).await;
    is_gone(&world, "trigger order_moved", "").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_swallows_or_refuses_every_close_is_named_before_anything_is_late() {
    let world = World::new().await;
    world.stock("tea", 1).await;
    let order = world.order("tea", std::time::Duration::from_secs(3600)).await;
    let row = "create function shop_rule() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger shop_rule before update on orders for each row execute function shop_rule()";
    let rule = "create rule shop_rule as on update to orders do instead nothing";
    let refusal = "create function shop_rule() returns trigger language plpgsql as $$ begin raise exception 'closed for stocktaking'; end $$;
         create trigger shop_rule before update on orders for each row execute function shop_rule()";
    for (plant, problem, mend) in [
        (row, "something swallows it (trigger shop_rule)", "drop trigger shop_rule on orders; drop function shop_rule"),
        (rule, "something swallows it (rule shop_rule)", "drop rule shop_rule on orders"),
        (refusal, "closed for stocktaking", "drop trigger shop_rule on orders; drop function shop_rule"),
    ] {
        world.execute(plant).await;
        let said = advice(&world, "orders", problem).await;
        assert!(said.contains("trigger"), "{said}");
        world.execute(mend).await;
        is_gone(&world, "orders", problem).await;
    }
    assert_eq!(world.status(&order.id).await, "pending", "nothing was changed");
    assert_eq!(world.number("select count(*) from order_log where to_status = 'closed'").await, 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_a_role_lacks_are_named_with_the_grant() {
    let world = World::new().await;
    let roles = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/database-roles.sql")).unwrap();
    world.execute(&roles).await;
    assert!(look(&world, "role", "").await.is_none(), "with the file alone, nothing is missing");
    for (revoke, role, problem) in [
        (
            "revoke update (closed_at) on orders from overdue_worker",
            "role overdue_worker",
            "update (closed_at) on orders",
        ),
        ("revoke insert on order_log from overdue_worker", "role overdue_worker", "insert on order_log"),
        ("revoke delete on outbox from overdue_relay", "role overdue_relay", "delete on outbox"),
    ] {
        world.execute(revoke).await;
        let said = advice(&world, role, problem).await;
        follow(&world, &said).await;
        is_gone(&world, role, problem).await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_named() {
    let world = World::new().await;
    let database = text(&world, "select current_database()::text").await;
    let mut admin = PgConnection::connect(&world.database_url).await.unwrap();
    let set = format!("alter database {database} set default_transaction_read_only = on");
    sqlx::query(AssertSqlSafe(set)).execute(&mut admin).await.unwrap();
    finds(&world, "database", "takes no writes").await;
    let run = world.overdue(&["run"]).await;
    assert_ne!(run.status.code(), Some(0));
    let reset =
        format!("set transaction_read_only = off; alter database {database} reset default_transaction_read_only");
    sqlx::raw_sql(AssertSqlSafe(reset)).execute(&mut admin).await.unwrap();
    is_gone(&world, "database", "takes no writes").await;
    world.close().await;
}
