//! The program as its users meet it: what it prints, what it refuses, and with which exit code.

use std::process::{Output, Stdio};
use std::time::Duration;

use tests::{World, env, eventually};
use tokio::io::AsyncWriteExt;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails unless the program ended with `code` and said `text` on standard error.
#[track_caller]
fn refused(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", err(output));
    assert!(err(output).contains(text), "{text:?} is not in {:?}", err(output));
    assert!(!err(output).contains("panicked"), "{}", err(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_behind_or_ahead_is_refused_with_a_sentence() {
    let world = World::new().await;
    world.execute("insert into overdue_migrations (version, description, success, checksum, execution_time) values (9999, 'x', true, '', 0)").await;
    refused(&world.overdue(&["run"]).await, 4, "ahead: it has version 9999");
    refused(&world.overdue(&["migrate"]).await, 4, "run a newer overdue");
    world.execute("delete from overdue_migrations").await;
    refused(&world.overdue(&["run"]).await, 4, "run `overdue migrate`");
    world.execute("drop table overdue_migrations").await;
    refused(&world.overdue(&["audit"]).await, 4, "run `overdue migrate`");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topology_is_refused_with_a_sentence() {
    let world = World::bare(&[]).await;
    refused(&world.overdue(&["run"]).await, 4, "overdue topology declare");
    refused(&world.overdue(&["topology", "verify"]).await, 1, "things are off");
    assert_eq!(world.overdue(&["topology", "declare"]).await.status.code(), Some(0));
    assert_eq!(world.overdue(&["topology", "verify"]).await.status.code(), Some(0));
    refused(&world.overdue(&["run", "--payment-timeouts", "45m"]).await, 4, "overdue.v1.delay.45m");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_are_refused_with_a_sentence() {
    let world = World::new().await;
    refused(
        &world.overdue(&["run", "--claim-lease", "5s", "--confirm-timeout", "10s"]).await,
        2,
        "must be longer than --confirm-timeout",
    );
    refused(&world.overdue(&["run", "--coalesce-window", "11s"]).await, 2, "in memory");
    refused(&world.overdue(&["run", "--payment-timeouts", "30x"]).await, 2, "is not a lane");
    refused(&world.overdue(&["run", "--prefetch-messages", "0"]).await, 2, "prefetch-messages");
    refused(&world.overdue(&["run", "--database-url", "mysql://x"]).await, 2, "URL is not valid");
    refused(&world.overdue(&["run", "--amqp-url", "http://x"]).await, 2, "URL is not valid");
    refused(&world.overdue(&["run", "--amqp-ca-file", "/nowhere"]).await, 2, "/nowhere");
    refused(&world.overdue(&["run", "--only", "cook"]).await, 2, "cook");
    let mut no_url = world.command(&["audit"]);
    let output = no_url.env_remove("OVERDUE_DATABASE_URL").output().await.unwrap();
    refused(&output, 2, "--database-url");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_reached_are_named_without_their_passwords() {
    let world = World::new().await;
    let closed = "127.0.0.1:1";
    for (arguments, text) in [
        (["run", "--database-url", "postgres://u:hidden@127.0.0.1:1/x"], closed),
        (["run", "--amqp-url", "amqp://u:hidden@127.0.0.1:1/x"], closed),
    ] {
        let output = world.overdue(&arguments).await;
        refused(&output, 3, text);
        assert!(!err(&output).contains("hidden"));
    }
    let wrong = env("OVERDUE_AMQP_URL").replace('@', "wrong@");
    refused(&world.overdue(&["run", "--amqp-url", &wrong]).await, 3, "refused access");
    let nowhere = format!("{}x", world.amqp_url);
    refused(&world.overdue(&["run", "--amqp-url", &nowhere]).await, 3, "vhost");
    let wrong = world.database_url.replace('@', "wrong@");
    refused(&world.overdue(&["run", "--database-url", &wrong]).await, 3, "password authentication failed");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_order_on_the_command_line() {
    let world = World::new().await;
    let done = async |arguments: &[&str]| {
        let output = world.overdue(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", err(&output));
        out(&output)
    };
    assert_eq!(done(&["stock", "add", "tea", "5"]).await, "tea: 5 available, 0 reserved\n");
    let create = |id: &'static str| {
        ["order", "create", id, "--item", "tea=2", "--amount-minor", "1999", "--payment-timeout", "30m"]
    };
    assert!(done(&create("A-1")).await.contains("order A-1 is to be paid by"));
    refused(&world.overdue(&create("A-1")).await, 1, "exists already");
    done(&create("A-2")).await;
    refused(&world.overdue(&create("A-3")).await, 1, "not enough stock of tea: 2 wanted, 1 available");
    refused(&world.overdue(&["order", "create", "A 4", "--item", "tea=1"]).await, 2, "not allowed in an order ID");
    refused(&world.overdue(&["order", "create", "A-4", "--item", "tea"]).await, 2, "SKU=QUANTITY");
    done(&["order", "pay", "A-1", "--transaction-id", "wx-7"]).await;
    done(&["order", "cancel", "A-2"]).await;
    refused(&world.overdue(&["order", "pay", "A-2"]).await, 1, "order A-2 is cancelled already");
    refused(&world.overdue(&["order", "show", "A-9"]).await, 1, "there is no order A-9");
    let shown = done(&["order", "show", "A-1"]).await;
    assert!(
        shown.contains("status    paid") && shown.contains("wx-7") && shown.contains("  paid (paid, by order-service)"),
        "{shown}"
    );
    let json: serde_json::Value = serde_json::from_str(&done(&["order", "show", "A-1", "--json"]).await).unwrap();
    assert_eq!((&json["status"], json["log"].as_array().map(Vec::len)), (&"paid".into(), Some(2)));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_names_bad_lines_and_sends_the_others() {
    let world = World::with_timeouts(&["2s"]).await;
    world.stock("tea", 5).await;
    let (first, second) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let mut command = world.command(&["publish", "--after", "0s"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = format!("{}\n\nnot an id\n{}\n", first.id, second.id);
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    refused(&output, 1, "line 3: character ' '");
    assert!(err(&output).contains("2 orders published"));
    let worker = world.worker();
    for order in [&first, &second] {
        world.becomes(&order.id, "closed").await;
    }
    eventually("one message carried both", async || worker.counted().messages == 1).await;

    let bare = [world.overdue_order("tea").await, world.overdue_order("tea").await];
    let output =
        world.overdue(&["publish", "--bare", "--after", "500ms", bare[0].id.as_str(), bare[1].id.as_str()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    for order in &bare {
        world.becomes(&order.id, "closed").await;
    }
    eventually("each came in a message of its own", async || worker.counted().messages == 3).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_each_kind_of_wrong() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    for _ in 0..5 {
        world.order("tea", Duration::from_secs(3600)).await;
    }
    let clean = world.overdue(&["audit", "--json"]).await;
    assert_eq!(clean.status.code(), Some(0), "{}", out(&clean));
    let json: serde_json::Value = serde_json::from_str(&out(&clean)).unwrap();
    assert_eq!((&json["clean"], &json["orders"]), (&true.into(), &5.into()));

    world
        .execute(
            "insert into payments (order_id, gateway, prepay) values ('o-0', 'http', 'none');
             insert into gateways (name, account, is_default, default_since) values ('wechat', 'x', true, now() - interval '1 hour');
             update orders set payment_deadline = now() - interval '1 hour', amount_minor = 0 where id = 'o-0';
             update inventory set reserved = reserved + 1;
             update orders set status = 'closed', closed_at = now() - interval '1 minute' where id = 'o-1';
             insert into order_log (order_id, from_status, to_status, reason, actor) values ('o-2', 'pending', 'closed', 'x', 'x');
             insert into idempotency_keys (key, order_id, outcome) values ('k', 'o-2', 'closed');
             update outbox set created_at = now() - interval '1 hour' where order_id = 'o-3';
             insert into payments (order_id, gateway, state, transaction_id) values ('o-3', 'wechat', 'paid', 't');
             update orders set status = 'paid', paid_at = now(), transaction_id = 't' where id = 'o-4';
             update payments set ask_at = now() - interval '1 hour' where order_id = 'o-4';
             insert into payments (order_id, gateway, state, not_found_at) values ('o-2', 'wechat', 'closed', now());
             insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, created_at)
             values ('overdue-r', 'o-4', 'wechat', 'o-4', 't', 1, 'CNY', 'late', 'needs_person', now()),
                    ('overdue-s', 'o-9', 'wechat', 'o-9', 't', 1, 'CNY', 'late', 'requested', now() - interval '2 hours');
             insert into timers (kind, subject, due_at, changed_at) values ('late', 't', now() - interval '1 hour', now() - interval '1 hour');
             insert into timers (kind, subject, due_at, state, fired_at) values ('early', 't', now() - interval '1 hour', 'fired', now() - interval '2 hours');
             insert into parked (reason, orders, routing_key, body, fingerprint, first_at, last_at)
             values ('payment_unknown', '{o-1}', '1s.payment', 'o-1', 'f', now() - interval '1 hour', now() - interval '1 hour')",
        )
        .await;
    let broken = world.overdue(&["audit", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out(&broken)).unwrap();
    for check in json["checks"].as_array().unwrap() {
        assert_eq!(check["violations"], 1, "{check}");
    }
    refused(&broken, 1, "18 rules are broken");
    let table = out(&world.overdue(&["audit"]).await);
    assert!(table.contains("no order is pending past its deadline") && table.contains("o-0"), "{table}");
    world.close().await;
}

/// States in which money is lost, or is about to be, as they were found in the wild: each is named, whoever made it.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_every_way_in_which_money_was_lost() {
    let world = World::new().await;
    world
        .execute(
            "alter table payments disable trigger user; alter table orders disable trigger user;
             insert into gateways (name, account, trade_nos, is_default, default_since) values ('wechat', 'x', '^.{6,32}$', true, now() - interval '1 day');
             insert into orders (id, amount_minor, currency, payment_deadline, status, closed_at, paid_at, transaction_id)
             select id, 1999, 'CNY', now() - interval '1 hour', status,
                    case when status = 'closed' then now() - interval '50 minutes' end,
                    case when status = 'paid' then now() - interval '2 hours' end, transaction_id
             from (values ('replaced', 'closed', null), ('message-lost', 'cancelled', null), ('begun-late', 'closed', null),
                          ('missed-twice', 'cancelled', null), ('cash-open', 'paid', 'cash'), ('cash-twice', 'paid', null),
                          ('moved-gateway', 'closed', null), ('stands-still', 'pending', null), ('shared-second', 'closed', null),
                          ('unasked', 'closed', null), ('denied-once', 'paid', 't-1'), ('just-paying', 'paid', 't-2'),
                          ('short', 'pending', null)) as v (id, status, transaction_id);
             insert into orders (id, amount_minor, currency, payment_deadline) values ('for-nothing', 0, 'CNY', now() + interval '1 hour');
             insert into payments (order_id, gateway, trade_no, prepay, state, transaction_id, paid_at, not_found_at, ask_at)
             values ('replaced', 'wechat', 'replaced', 'created', 'open', null, null, null, now() - interval '1 hour'),
                    ('replaced', 'wechat', 'replaced-2', 'created', 'closed', null, null, null, now()),
                    ('message-lost', 'wechat', 'message-lost', 'created', 'open', null, null, null, now() - interval '1 hour'),
                    ('begun-late', 'wechat', 'begun-late', 'attempted', 'open', null, null, null, now() - interval '1 hour'),
                    ('missed-twice', 'wechat', 'missed-twice', 'attempted', 'closed', null, null, now() - interval '40 minutes', now()),
                    ('cash-open', 'wechat', 'cash-open', 'created', 'open', null, null, null, now() - interval '1 hour'),
                    ('cash-twice', 'wechat', 'cash-twice', 'created', 'paid', 't-3', now(), null, now()),
                    ('moved-gateway', 'wechat', 'moved-gateway', 'created', 'closed', null, null, null, now()),
                    ('moved-gateway', 'http', 'moved-gateway', 'attempted', 'open', null, null, null, now() - interval '1 hour'),
                    ('stands-still', 'wechat', 'stands-still', 'created', 'open', null, null, null, now()),
                    ('shared-second', 'wechat', 'shared-second', 'created', 'paid', 't-4', now(), null, now()),
                    ('denied-once', 'wechat', 'denied-once', 'created', 'paid', 't-1', now(), null, now()),
                    ('just-paying', 'wechat', 'just-paying', 'created', 'paid', 't-2', now(), null, now()),
                    ('short', 'wechat', 'short', 'none', 'open', null, null, null, now()),
                    ('for-nothing', 'wechat', 'for-nothing', 'none', 'open', null, null, null, now());
             insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, created_at)
             values ('unplaced-1', 'x', 'http', 'x', null, null, null, 'the money cannot be placed', 'needs_person', now()),
                    ('unplaced-2', 'x', 'http', 'x', 't', 1, 'CNY', 'the money cannot be placed', 'needs_person', now()),
                    ('overdue-partly', 'x', 'wechat', 'x', 't', 1, 'CNY', 'late', 'requested', now() - interval '2 hours');
             insert into parked (reason, orders, routing_key, body, fingerprint, first_at, last_at)
             select reason, array[id], '1s.gateway', 'x', id::bytea, now() - interval '1 hour', now() - interval '1 hour'
             from (values ('trade_missing', 'denied-once'), ('payment_unknown', 'just-paying')) as v (reason, id)",
        )
        .await;
    let audit = world.overdue(&["audit", "--json"]).await;
    assert_eq!(audit.status.code(), Some(1), "{}", err(&audit));
    let audit: serde_json::Value = serde_json::from_str(&out(&audit)).unwrap();
    let named = |rule: &str| -> Vec<String> {
        let check = audit["checks"].as_array().unwrap().iter().find(|check| check["name"] == rule).expect(rule);
        check["examples"].as_array().unwrap().iter().map(|example| example.as_str().unwrap().to_owned()).collect()
    };
    for (rule, expected) in [
        ("payments_followed", &["begun-late", "cash-open", "message-lost", "moved-gateway", "replaced"][..]),
        ("not_given_up_early", &["missed-twice"]),
        ("paid_once", &["cash-twice", "shared-second"]),
        ("refunds_arrive", &["unplaced-1", "unplaced-2"]),
        ("refunds_move", &["overdue-partly"]),
        ("overdue_pending", &["short", "stands-still"]),
        ("asked_before_close", &["unasked"]),
        ("payable", &["for-nothing", "short"]),
    ] {
        assert_eq!(named(rule), expected, "{rule}");
    }
    assert_eq!(named("parked_for_a_reason").len(), 2);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_carry_neither_secrets_nor_bodies() {
    let world = World::new().await;
    let mut noisy = world.start(&["run", "--log", "trace,lapin=trace", "--log-format", "json"]);
    noisy.says("consuming").await;
    let foreign = world.foreign().await;
    foreign.due_now(b"{\"v\":1,\"orders\":[{\"id\":\"customer phone 555-0100\"}]}").await;
    eventually("it is parked", async || world.number("select count(*) from parked").await == 1).await;
    noisy.terminate().await;
    noisy.ended().await;
    let log = noisy.log_text();
    let password = url::Url::parse(&world.amqp_url).unwrap().password().unwrap().to_owned();
    for secret in ["555-0100", password.as_str()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        lines.len() > 3 && lines.iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{log}"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_demo_ends_clean() {
    let world = World::bare(&[]).await;
    let output = world.overdue(&["demo", "--orders", "60", "--skus", "7"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let text = out(&output);
    assert!(
        text.contains("created 60") && text.contains("(sum exact)") && text.contains("the books are clean"),
        "{text}"
    );
    refused(
        &world.overdue(&["demo", "--database-url", "postgres://u@db.example.com/x"]).await,
        2,
        "is not this machine",
    );
    world.close().await;
}
