//! What operators do, and what they may not.

use std::time::Duration;

use console::{Action, PAGES};
use reqwest::StatusCode;
use tests::{World, eventually};

use crate::stage::{ACTS, LOOKS, Stage, park, with_form};

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_changes_nothing_by_any_route_and_it_is_on_record() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    park(&world, 1, "p").await;
    let form = [
        ("order", order.id.as_str()),
        ("minutes", "5"),
        ("id", "1"),
        ("reason", "not_json"),
        ("until", "99"),
        ("kind", "gateway"),
        ("name", "wechat"),
        ("note", "x"),
    ];
    for action in Action::ALL {
        let response = stage.act(LOOKS, action.slug(), &form).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{}", action.slug());
        let refused = format!(
            "select count(*) from operator_actions where operator = 'bob' and role = 'look' and state = 'refused' and action = '{}'",
            action.name()
        );
        assert_eq!(world.number(&refused).await, 1, "{}", action.name());
    }
    // Nor by pages, and with whatever method.
    for page in PAGES {
        let response = stage.client.get(format!("{}{page}", stage.base)).basic_auth(LOOKS.0, Some(LOOKS.1));
        let status = response.send().await.unwrap().status();
        assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{page}: {status}");
        for method in [reqwest::Method::POST, reqwest::Method::PUT, reqwest::Method::DELETE, reqwest::Method::PATCH] {
            let request = stage.client.request(method.clone(), format!("{}{page}", stage.base));
            let request = with_form(request.basic_auth(LOOKS.0, Some(LOOKS.1)), &form);
            let status = request.send().await.unwrap().status();
            let is_refused = matches!(status, StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED);
            assert!(is_refused, "{method} {page}: {status}");
        }
    }
    assert_eq!(world.status(&order.id).await, "pending");
    assert_eq!(world.number("select count(*) from parked where state <> 'held'").await, 0);
    assert_eq!(world.number("select count(*) from operator_actions where state <> 'refused'").await, 0);
    assert_eq!(
        world.number("select count(*) from probes").await + world.number("select count(*) from checks").await,
        0
    );
    let page = stage.page("/console/actions").await;
    assert!(page.contains("order.close") && page.contains("refused") && page.contains("bob (look)"), "{page}");
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_password_and_no_page_of_elsewhere_acts() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let url = format!("{}/console", stage.base);
    assert_eq!(status(stage.client.get(&url)).await, 401);
    assert_eq!(status(stage.client.get(&url).basic_auth("alice", Some("wrong"))).await, 401);
    assert_eq!(status(stage.client.get(&url).basic_auth("nobody", Some("x"))).await, 401);
    assert_eq!(status(stage.client.get(&url).header("x-forwarded-user", "alice")).await, 401, "no proxy is trusted");
    assert_eq!(status(stage.get("/console")).await, 200);
    let act = || stage.client.post(format!("{url}/act/doctor-run")).basic_auth(ACTS.0, Some(ACTS.1));
    assert_eq!(status(act().header("sec-fetch-site", "cross-site")).await, 403);
    assert_eq!(status(act().header("origin", "http://evil.example")).await, 403);
    assert_eq!(
        world.number("select count(*) from operator_actions where operator = 'alice' and state = 'refused'").await,
        2
    );
    assert_eq!(status(act().header("sec-fetch-site", "same-origin")).await, 303);
    // The log has no password, and no credentials.
    assert!(!stage.process.log_text().contains(ACTS.1));
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_trusted_says_who_it_is_and_the_file_says_what_they_may() {
    let world = World::new().await;
    let trusted = [("OVERDUE_CONSOLE_TRUST_HEADER", "X-Forwarded-User=127.0.0.1")];
    let stage = Stage::with(&world, &["run", "--only", "console"], &trusted).await;
    let named = async |name: &str| {
        let request = stage.client.get(format!("{}/console", stage.base)).header("x-forwarded-user", name);
        request.send().await.unwrap().text().await.unwrap()
    };
    assert!(named("alice").await.contains("alice, may act"));
    assert!(named("carol").await.contains("carol, may look"), "who is not in the file may look");
    assert_eq!(stage.client.get(format!("{}/console", stage.base)).send().await.unwrap().status(), 401);
    assert!(stage.page("/console").await.contains("alice, may act"), "a password does as well");
    stage.end().await;
    // Where others can connect and nobody is named, there is no console.
    let refused = world.overdue(&["run", "--only", "console", "--listen", "0.0.0.0:0"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("OVERDUE_CONSOLE_USERS_FILE"));
    // Nor where a token says that others come, perhaps through a proxy.
    let mut open = world.command(&["run", "--listen", "127.0.0.1:0"]);
    open.env("OVERDUE_API_TOKEN", "correct-horse-battery");
    let open = world.start_command(open);
    open.says("there is no console at").await;
    let base = open.http_base().await;
    assert_eq!(stage_less_get(&format!("{base}/console")).await, 404);
    open.kill().await;
    let mut bad = world.command(&["run", "--only", "console", "--listen", "127.0.0.1:0"]);
    bad.env("OVERDUE_CONSOLE_USERS_FILE", "/nowhere/users.toml");
    let refused = bad.output().await.unwrap();
    assert!(
        refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("/nowhere/users.toml")
    );
    world.close().await;
}

async fn stage_less_get(url: &str) -> u16 {
    reqwest::get(url).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_sent_in_again_up_to_what_was_seen_while_new_ones_arrive() {
    let world = World::new().await;
    world.stock("tea", 500).await;
    let stage = Stage::new(&world).await;
    // Orders that are there: sent in again, they settle.
    park(&world, 100, "m").await;
    world
        .execute("insert into orders (id, amount_minor, currency, payment_deadline) select 'm-not_json-' || n, 1, 'CNY', now() - interval '1 hour' from generate_series(1, 100) n")
        .await;
    world.execute("update orders set status = 'cancelled'").await;
    stage.shows("/console/parked", "not_json").await;
    let seen = world.number("select max(id) from parked where reason = 'not_json'").await;
    // They come after the operator has looked.
    park(&world, 7, "n").await;
    let until = seen.to_string();
    let confirm = stage.page(&format!("/console/parked/confirm?action=requeue&reason=not_json&until={until}")).await;
    assert!(confirm.contains("no attempts made: 100"), "{confirm}");
    let page = stage
        .done("parked-requeue", &[("reason", "not_json"), ("until", &until), ("note", "the publisher is mended")])
        .await;
    assert!(
        page.contains("100 were sent in again") && page.contains("100 / 100") | page.contains("100 of 100"),
        "{page}"
    );
    let of = async |state: &str, reason: &str| {
        world.number(&format!("select count(*) from parked where state = '{state}' and reason = '{reason}'")).await
    };
    assert_eq!((of("requeued", "not_json").await, of("held", "not_json").await), (100, 7), "what came later stays");
    assert_eq!((of("held", "unknown_order").await, of("held", "delivery_limit").await), (107, 107));
    assert_eq!(world.number("select count(*) from parked where changed_by like 'alice (action %'").await, 100);
    assert_eq!(world.number("select total + handled from operator_actions where action = 'parked.requeue'").await, 200);
    // They came: the story of one says so.
    stage.shows("/console/orders/m-not_json-1", "came to a worker").await;
    stage.shows("/console/orders/m-not_json-1", "parked message sent in again").await;
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_undone_as_a_whole_and_nothing_else_with_it() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    park(&world, 3, "d").await;
    world
        .execute("update parked set state = 'dropped', changed_at = now(), changed_by = 'somebody' where id = (select min(id) from parked)")
        .await;
    let page = stage.done("parked-drop", &[("reason", "not_json"), ("until", "999")]).await;
    let dropped =
        world.number("select count(*) from parked where state = 'dropped' and changed_by like 'alice%'").await;
    assert!(dropped >= 2 && page.contains(&format!("{dropped} were dropped")), "{page}");
    let id = world.number("select id from operator_actions where action = 'parked.drop'").await.to_string();
    let page = stage.done("parked-restore", &[("undo", &id)]).await;
    assert!(page.contains(&format!("{dropped} were parked again")), "{page}");
    assert_eq!(
        world.number("select count(*) from parked where state = 'dropped'").await,
        1,
        "somebody else's stays dropped"
    );
    // Chosen ones.
    let last = world.number("select max(id) from parked").await;
    let chosen = [last.to_string(), (last - 1).to_string()];
    let page = stage.done("parked-drop", &[("id", &chosen[0]), ("id", &chosen[1])]).await;
    assert!(page.contains("2 were dropped"), "{page}");
    // The same message, dropped twice: one comes back, and none is in the way of the others.
    world.execute("update parked set state = 'dropped', changed_at = now() where state = 'held'").await;
    world.execute("insert into parked (reason, routing_key, body, fingerprint, first_at, last_at, state, changed_at)
                   select reason, routing_key, body, fingerprint, now(), now(), 'dropped', now() from parked where reason = 'delivery_limit'").await;
    let all: Vec<String> = sqlx::query_scalar("select id::text from parked").fetch_all(&world.pool).await.unwrap();
    let form: Vec<(&str, &str)> = all.iter().map(|id| ("id", id.as_str())).collect();
    let page = stage.done("parked-restore", &form).await;
    assert!(page.contains("9 were parked again"), "{page}");
    // A form that says nothing means nothing.
    for form in [&[][..], &[("reason", "not_json")], &[("until", "9")], &[("undo", "999999")], &[("undo", "x")]] {
        assert_eq!(stage.act(ACTS, "parked-drop", form).await.status(), StatusCode::CONFLICT, "{form:?}");
    }
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_closed_extended_and_looked_at_again_with_the_operators_name() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let stage = Stage::new(&world).await;
    let (order, other) =
        (world.order("tea", Duration::from_secs(600)).await, world.order("tea", Duration::from_secs(600)).await);
    let id = order.id.as_str();
    let page = stage.done("order-extend", &[("order", id), ("minutes", "60")]).await;
    assert!(page.contains("deadline moved") && page.contains("operator alice"), "{page}");
    assert_eq!(
        world.number(&format!("select round(extract(epoch from payment_deadline - created_at) / 60)::bigint from orders where id = '{id}'")).await,
        70
    );
    let page = stage.done("order-close", &[("order", id), ("why", "the customer called")]).await;
    assert!(page.contains("order.close"), "{page}");
    world.becomes(&order.id, "closed").await;
    let log = format!(
        "select count(*) from order_log where order_id = '{id}' and operator = 'alice' and reason like '%the customer called%'"
    );
    assert!(world.number(&log).await >= 1, "a worker may be faster than the page");
    assert!(stage.done("order-close", &[("order", id)]).await.contains("the order is closed"));
    assert!(stage.done("order-extend", &[("order", id), ("minutes", "5")]).await.contains("failed"));
    assert!(stage.done("order-look", &[("order", other.id.as_str())]).await.contains("a message for it is on its way"));
    stage.shows(&format!("/console/orders/{}", other.id), "came to a worker").await;
    for (action, form) in [
        ("order-close", &[("order", "no/such")][..]),
        ("order-close", &[("order", "missing")]),
        ("order-look", &[]),
        ("nonsense", &[]),
    ] {
        let status = stage.act(ACTS, action, form).await.status();
        assert!(matches!(status, StatusCode::CONFLICT | StatusCode::NOT_FOUND), "{action} {form:?}: {status}");
    }
    assert!(stage.done("order-extend", &[("order", other.id.as_str()), ("minutes", "0")]).await.contains("give 1 to"));
    // Doctor and audit.
    let page = stage.done("audit-run", &[]).await;
    assert!(page.contains("The books are clean"), "{page}");
    let page = stage.done("doctor-run", &[]).await;
    assert!(page.contains("Nothing was wrong") || page.contains("What to do"), "{page}");
    world.audit().await;
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_endpoints_timers_and_processes_are_acted_on() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    world
        .execute("insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem)
                  select 'overdue-' || n, 'o', 'wechat', 'o', 't', 9223372036854775807, 'CNY', 'late', 'needs_person', 'given up' from generate_series(1, 2) n")
        .await;
    let page = stage.page("/console/refunds").await;
    assert!(page.contains("92,233,720,368,547,758.07 CNY"), "no digit is lost: {page}");
    assert_eq!(
        stage.act(ACTS, "refund-resolve", &[("refund_no", "overdue-1")]).await.status(),
        StatusCode::CONFLICT,
        "without a note"
    );
    stage.done("refund-resolve", &[("refund_no", "overdue-1"), ("note", "paid back in cash")]).await;
    stage.done("refund-retry", &[("refund_no", "overdue-2")]).await;
    assert_eq!(
        world
            .number(
                "select count(*) from refunds where state = 'succeeded' and problem like '%paid back in cash (alice)%'"
            )
            .await,
        1
    );
    assert_eq!(world.number("select count(*) from refunds where state = 'requested'").await, 1);
    stage.done("endpoint-stop", &[("name", "shop"), ("note", "it floods us")]).await;
    assert!(stage.page("/console/gateways").await.contains("stopped by alice: it floods us"));
    stage.done("endpoint-resume", &[("name", "shop")]).await;
    assert_eq!(world.number("select count(*) from webhook_endpoints").await, 0);
    world.execute("select overdue_arm('receipt', 'A-1', now() + interval '1 hour'), overdue_arm('receipt', 'A-2', now() + interval '1 hour')").await;
    stage.done("timer-cancel", &[("timer", "receipt:A-2")]).await;
    stage.done("timer-fire", &[("timer", "receipt:A-1")]).await;
    eventually("it fires", async || world.number("select count(*) from timers where state = 'fired'").await == 1).await;
    assert_eq!(world.number("select count(*) from timers where state = 'cancelled'").await, 1);
    let gone = "insert into processes (id, host, pid, version, roles, started_at, seen_at)
                values ('00000000-0000-0000-0000-000000000001', 'gone', 7, '0', '{relay}', now(), now() - interval '1 minute')";
    world.execute(gone).await;
    stage.done("process-forget", &[("process", "00000000-0000-0000-0000-000000000001")]).await;
    assert_eq!(world.number("select count(*) from processes where host = 'gone'").await, 0);
    assert_eq!(
        world.number("select count(*) from operator_actions where state = 'done' and operator = 'alice'").await,
        7
    );
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_runs_once_at_a_time_and_ends_when_its_process_is_to_stop() {
    let world = World::new().await;
    let mut stage = Stage::with(&world, &["run", "--only", "console"], &[]).await;
    // The audit has to wait: somebody has locked the orders.
    let mut locked = world.connection().await;
    sqlx::raw_sql("begin; lock table orders in access exclusive mode").execute(&mut *locked).await.unwrap();
    let (one, two) = tokio::join!(stage.act(ACTS, "audit-run", &[]), stage.act(ACTS, "audit-run", &[]));
    assert_eq!((one.status(), two.status()), (StatusCode::SEE_OTHER, StatusCode::SEE_OTHER));
    assert_eq!(one.headers()["location"], two.headers()["location"], "both are shown the one that runs");
    assert_eq!(world.number("select count(*) from operator_actions").await, 1);
    stage.process.terminate().await;
    assert!(stage.process.ended().await.success());
    let ended =
        "select count(*) from operator_actions where state = 'failed' and after = 'the process was told to stop'";
    assert_eq!(world.number(ended).await, 1);
    sqlx::raw_sql("rollback").execute(&mut *locked).await.unwrap();
    drop(locked);
    // One whose process has died is in nobody's way for long.
    world.execute("update operator_actions set state = 'begun', changed_at = now() - interval '31 seconds'").await;
    let stage = Stage::with(&world, &["run", "--only", "console"], &[]).await;
    assert!(stage.done("audit-run", &[]).await.contains("The books are clean"));
    assert_eq!(
        world.number("select count(*) from operator_actions where after like 'how it ended is not known%'").await,
        1
    );
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_without_a_broker_looks_at_what_it_can() {
    let world = World::new().await;
    let mut command = world.command(&["run", "--only", "console", "--listen", "127.0.0.1:0"]);
    command.env_remove("OVERDUE_AMQP_URL");
    let process = world.start_command(command);
    process.says("running").await;
    let base = process.http_base().await;
    let client = reqwest::Client::new();
    let run = client.post(format!("{base}/console/act/doctor-run")).send().await.unwrap();
    assert!(run.status().is_success());
    eventually("the report is there", async || {
        let page = reqwest::get(format!("{base}/console/doctor")).await.unwrap().text().await.unwrap();
        page.contains("this process does not know its URL") && page.contains("role relay")
    })
    .await;
    process.kill().await;
    world.close().await;
}
