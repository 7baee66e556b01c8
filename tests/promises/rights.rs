//! Each role works under a user with the rights of its own, and is refused what it does not need: in RabbitMQ
//! (`rabbitmq/users.json`) and in PostgreSQL (`docs/database-roles.sql`).

use std::time::Duration;

use broker::{BrokerUser, users};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::{EndpointFile, Process, Receiver, Reply, World, endpoint, eventually, management, simulator};
use url::Url;

const PASSWORD: &str = "secret-of-a-test";

/// Creates one of the users for this world alone, and gives its URL.
async fn broker_user(world: &World, user: &BrokerUser) -> String {
    let name = format!("{}-{}", world.vhost, user.name);
    management(Method::PUT, &["users", &name], Some(json!({ "password": PASSWORD, "tags": user.tags }))).await;
    let rights = json!({ "configure": user.configure, "write": user.write, "read": user.read });
    management(Method::PUT, &["permissions", &world.vhost, &name], Some(rights)).await;
    let mut url: Url = world.amqp_url.parse().unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.to_string()
}

/// A file with one endpoint.
async fn delete_users(world: &World) {
    for user in users() {
        management(Method::DELETE, &["users", &format!("{}-{}", world.vhost, user.name)], None).await;
    }
}

fn user(name: &str) -> BrokerUser {
    users().into_iter().find(|user| user.name == name).unwrap()
}

/// Whether this user is refused to do this.
enum Deed {
    Publish(&'static str),
    Consume(&'static str),
    Declare,
    DeclareQueue,
    Purge(&'static str),
}

async fn is_refused(url: &str, deed: &Deed) -> bool {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let nothing = FieldTable::default;
    let outcome = match deed {
        Deed::Publish(exchange) => {
            channel.tx_select().await.unwrap();
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            drop(channel.basic_publish((*exchange).into(), "x".into(), options, b"", properties).await);
            channel.tx_rollback().await
        }
        Deed::Consume(queue) => {
            let options = BasicConsumeOptions::default();
            channel.basic_consume((*queue).into(), "".into(), options, nothing()).await.map(drop)
        }
        Deed::Declare => {
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare("overdue.mine".into(), ExchangeKind::Fanout, options, nothing()).await
        }
        Deed::DeclareQueue => {
            channel.queue_declare("overdue.mine".into(), QueueDeclareOptions::default(), nothing()).await.map(drop)
        }
        Deed::Purge(queue) => channel.queue_purge((*queue).into(), QueuePurgeOptions::default()).await.map(drop),
    };
    match outcome {
        Ok(()) => false,
        Err(error) => {
            // Of a channel that is just being closed lapin does not know yet why.
            let text = error.to_string();
            assert!(text.contains("ACCESS_REFUSED") || text.contains("invalid channel state"), "{error}");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_works_under_the_users_of_the_broker() {
    let (world, simulator) = (World::bare(&["2s"]).await, simulator().await);
    let [publisher, relay_user, worker, operator] =
        ["overdue-publisher", "overdue-relay", "overdue-worker", "overdue-operator"].map(user);
    let timers = broker_user(&world, &user("overdue-timers")).await;
    let webhooks_user = broker_user(&world, &user("overdue-webhooks")).await;
    let [publisher, relay_user, worker, operator] = [
        broker_user(&world, &publisher).await,
        broker_user(&world, &relay_user).await,
        broker_user(&world, &worker).await,
        broker_user(&world, &operator).await,
    ];
    let command = |url: &str, arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("OVERDUE_AMQP_URL", url);
        command
    };
    // The operator declares and looks.
    for arguments in [&["topology", "declare"][..], &["topology", "verify"], &["parked", "list"]] {
        let output = command(&operator, arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    for url in [&publisher, &relay_user, &worker] {
        assert_eq!(command(url, &["topology", "declare"]).output().await.unwrap().status.code(), Some(3));
    }
    // The roles work: an early order waits on, an unpaid one closes, one at a gateway is asked for, nonsense is parked.
    world.stock("tea", 10).await;
    let relay = world.start_command(command(&relay_user, &["run", "--only", "relay"]));
    let mut with_gateway = command(&worker, &["run", "--only", "worker"]);
    with_gateway.envs(tests::wechat_environment(&simulator));
    let worker_process = world.start_command(with_gateway);
    let at_gateway = world.order_at_gateway(&simulator, &[]).await;
    let order = world.order("tea", Duration::from_secs(2)).await;
    let foreign = world.foreign().await;
    foreign.due_now(at_gateway.id.as_str().as_bytes()).await;
    foreign.due_now(b"not an ID").await;
    world.set_deadline(&order.id, 3.0).await;
    let again = world.order("tea", Duration::from_secs(2)).await;
    let arm = br#"{"v":1,"arm":[{"kind":"sms","subject":"1","due":"2020-01-01T00:00:00Z"}]}"#;
    let connection = Connection::connect(&timers, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    drop(channel.basic_publish("overdue.commands".into(), "".into(), options, arm, properties).await.unwrap());
    eventually("a timer that was commanded fires", async || {
        world.number("select count(*) from timers where state = 'fired'").await == 1
    })
    .await;
    world.becomes(&at_gateway.id, "closed").await;
    world.becomes(&order.id, "closed").await;
    world.becomes(&again.id, "closed").await;
    let held = async || world.number("select count(*) from parked where state = 'held'").await;
    eventually("nonsense is parked", async || held().await == 1).await;
    eventually("events and timeouts are sent", async || world.number("select count(*) from outbox").await == 0).await;
    // And the operator sends in again, and drops.
    for arguments in [&["parked", "requeue", "--all"][..], &["parked", "drop", "--all", "--yes"]] {
        eventually("it is parked, or parked again", async || held().await == 1).await;
        let output = command(&operator, arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        if arguments[1] == "requeue" {
            worker_process.says("settled").await;
        }
    }
    // Events are delivered, come back by a lane, and are parked.
    let receiver = Receiver::start().await;
    receiver.answers(|received| Reply::status(if received.event()["id"] == "refused" { 422 } else { 204 }));
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "")]);
    let mut declare = command(&operator, &["topology", "declare", "--webhooks", file.path()]);
    assert!(declare.output().await.unwrap().status.success());
    let webhooks =
        world.start_command(command(&webhooks_user, &["run", "--only", "webhooks", "--webhooks", file.path()]));
    webhooks.says("running").await;
    for event in [r#"{"id":"refused","type":"order.closed"}"#, r#"{"id":"fine","type":"order.closed"}"#] {
        foreign.publish("overdue.events", "order.closed", event.as_bytes(), BasicProperties::default()).await;
    }
    eventually("both were sent", async || receiver.received().len() == 2).await;
    foreign.queue_holds("overdue.v1.webhook.shop", 0).await;
    for process in [relay, worker_process, webhooks] {
        assert!(!process.log_text().contains("refused access"), "{}", process.log_text());
        process.kill().await;
    }

    for (url, deed) in [
        (&publisher, Deed::Publish("overdue.parked")),
        (&publisher, Deed::Publish("overdue.events")),
        (&publisher, Deed::Publish("overdue.lanes")),
        (&publisher, Deed::Publish("overdue.commands")),
        (&webhooks_user, Deed::Publish("overdue.events")),
        (&webhooks_user, Deed::Consume("overdue.v1.due.payment")),
        (&timers, Deed::Publish("overdue.delay")),
        (&timers, Deed::Publish("overdue.events")),
        (&timers, Deed::Consume("overdue.v1.commands")),
        (&relay_user, Deed::Publish("overdue.delay")),
        (&relay_user, Deed::Consume("overdue.v1.parked")),
        (&publisher, Deed::Publish("overdue.due")),
        (&publisher, Deed::Consume("overdue.v1.due.payment")),
        (&publisher, Deed::Consume("overdue.v1.parked")),
        (&publisher, Deed::Declare),
        (&publisher, Deed::Purge("overdue.v1.due.payment")),
        (&worker, Deed::Publish("overdue.delay")),
        (&worker, Deed::Publish("overdue.due")),
        (&worker, Deed::Publish("overdue.events")),
        (&worker, Deed::Consume("overdue.v1.delay.30m")),
        (&worker, Deed::Consume("overdue.v1.foreign.30m")),
        (&worker, Deed::DeclareQueue),
        (&worker, Deed::Purge("overdue.v1.delay.30m")),
    ] {
        assert!(is_refused(url, &deed).await);
    }
    assert!(!is_refused(&relay_user, &Deed::Publish("overdue.events")).await, "the test can tell");
    delete_users(&world).await;
    world.close().await;
}

#[tokio::test]
async fn the_users_in_the_repository_are_those_of_the_code() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/users.json");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
    assert!(written == broker::user_definitions("/"), "rabbitmq/users.json is old: run `make definitions`");
}

/// The roles of `docs/database-roles.sql`, in this world's database alone, with a user in each.
struct DatabaseRoles<'a> {
    world: &'a World,
}

impl<'a> DatabaseRoles<'a> {
    const NAMES: [&'static str; 7] = ["relay", "worker", "api", "operator", "timers", "webhooks", "console"];

    async fn create(world: &'a World) -> Self {
        // Roles belong to all databases of a server, and other tests must not see these.
        let mut script = include_str!("../../docs/database-roles.sql").to_owned();
        for role in Self::NAMES {
            script = script.replace(&format!("overdue_{role}"), &format!("{}_{role}", world.vhost));
        }
        for _ in 0..2 {
            world.execute(&script).await;
        }
        for role in Self::NAMES {
            let (name, login) = (format!("{}_{role}", world.vhost), Self::login(world, role));
            world.execute(&format!("create user {login} password '{PASSWORD}' in role {name}")).await;
        }
        Self { world }
    }

    fn login(world: &World, role: &str) -> String {
        format!("{}_{role}_1", world.vhost)
    }

    fn url(&self, role: &str) -> String {
        let mut url: Url = self.world.database_url.parse().unwrap();
        url.set_username(&Self::login(self.world, role)).unwrap();
        url.set_password(Some(PASSWORD)).unwrap();
        url.to_string()
    }

    fn start(&self, role: &str, arguments: &[&str]) -> Process {
        let mut command = self.world.command(arguments);
        command.env("OVERDUE_DATABASE_URL", self.url(role));
        self.world.start_command(command)
    }

    async fn is_refused(&self, role: &str, statement: &str) -> bool {
        let mut connection = PgConnection::connect(&self.url(role)).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await {
            Ok(_) => false,
            Err(error) => {
                let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
                assert_eq!(code.as_deref(), Some("42501"), "{role}: {statement}: {error}");
                true
            }
        }
    }

    async fn drop(self) {
        for role in Self::NAMES {
            let (name, login) = (format!("{}_{role}", self.world.vhost), Self::login(self.world, role));
            self.world.execute(&format!("drop owned by {login}, {name}; drop role {login}")).await;
        }
        for role in ["api", "relay", "worker", "operator", "timers", "webhooks", "console"] {
            self.world.execute(&format!("drop role {}_{role}", self.world.vhost)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_works_under_the_roles_of_the_database() {
    let (world, simulator) = (World::with_timeouts(&["2s"]).await, simulator().await);
    world.stock("tea", 20).await;
    let roles = DatabaseRoles::create(&world).await;
    let relay = roles.start("relay", &["run", "--only", "relay", "--listen", "127.0.0.1:0"]);
    let order = world.order("tea", Duration::from_secs(2)).await;
    let gateway = tests::wechat_environment(&simulator);
    let mut command =
        world.command(&["run", "--only", "worker,sweep", "--sweep-grace", "0s", "--sweep-every", "300ms"]);
    command.env("OVERDUE_DATABASE_URL", roles.url("worker")).envs(gateway.clone());
    let worker = world.start_command(command);
    world.becomes(&order.id, "closed").await;
    // Found paid; refunded; looked for by the sweep.
    let paid = world.order_at_gateway(&simulator, &[]).await;
    assert!(simulator.ledger().pay(paid.id.as_str()));
    world.foreign().await.due_now(paid.id.as_str().as_bytes()).await;
    world.becomes(&paid.id, "paid").await;
    let late = world.order_at_gateway(&simulator, &[]).await;
    // Paid before anybody closes the trade.
    assert!(simulator.ledger().pay(late.id.as_str()));
    world.cancel(&late.id).await.unwrap();
    world.foreign().await.due_now(late.id.as_str().as_bytes()).await;
    eventually("the money is back", async || {
        world.number("select count(*) from refunds where state = 'succeeded'").await == 1
    })
    .await;
    // A service that may only arm timers: its timer fires, and what it has cancelled does not. One is left to the sweep.
    let mut only_timers = PgConnection::connect(&roles.url("timers")).await.unwrap();
    let calls = "select overdue_arm('sms', '1', now()); select overdue_arm('sms', '2', now() + interval '1 hour');
                 select overdue_cancel('sms', '2')";
    sqlx::raw_sql(calls).execute(&mut only_timers).await.unwrap();
    world.execute("insert into timers (kind, subject, due_at, state, changed_at) values ('old', '1', now(), 'cancelled', now() - interval '1 year')").await;
    eventually("it fires", async || world.number("select count(*) from timers where state = 'fired'").await == 1).await;
    eventually("the old one is deleted", async || world.number("select count(*) from timers").await == 2).await;
    // The sweep's process deletes what is too old, with these rights.
    world.execute("insert into order_trail (subject, step, actor, detail, at) values ('x', 'came', 'x', 'x', now() - interval '1 year');
                   insert into operator_actions (operator, role, action, subject, state, at, changed_at) values ('x', 'act', 'x', 'x', 'begun', now() - interval '2 days', now() - interval '2 days')").await;
    let url = database::DatabaseUrl::parse(&roles.url("worker").as_str().into()).unwrap();
    let settings = database::PoolSettings {
        connections_max: 1,
        statement_timeout: Duration::from_secs(9),
        purpose: database::Purpose::Shop,
    };
    let client = database::Client::new(&url, &settings).unwrap();
    assert!(!book::tidy_trail(&client).await.unwrap());
    assert_eq!(world.number("select count(*) from order_trail where at < now() - interval '8 days'").await, 0);
    book::OperatorActions::new(client.clone()).tidy().await.unwrap();
    assert_eq!(world.number("select count(*) from operator_actions where state = 'failed'").await, 1);
    book::Processes::new(client).tidy().await.unwrap();
    let missed = world.overdue_order("tea").await;
    world.becomes(&missed.id, "closed").await;
    eventually("all is sent", async || world.number("select count(*) from outbox").await == 0).await;

    let mut command = world.command(&["run", "--only", "api", "--listen", "127.0.0.1:0"]);
    command.env("OVERDUE_DATABASE_URL", roles.url("api"));
    let api = world.start_command(command);
    api.says("running").await;
    let base = api.http_base().await;
    let post = async |path: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{base}{path}")).header("Idempotency-Key", path).json(&body);
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
    };
    for id in ["A-1", "A-2", "A-3"] {
        let order =
            json!({ "id": id, "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 1, "currency": "CNY" });
        post("/orders", order.clone()).await;
        world.execute("delete from api_requests").await;
    }
    let tomorrow = order::Deadline::at(time::OffsetDateTime::now_utc() + time::Duration::DAY).to_string();
    post("/orders/A-1/extend", json!({ "payment_deadline": tomorrow })).await;
    post("/orders/A-1/pay", json!({ "transaction_id": "T" })).await;
    post("/orders/A-2/cancel", json!({})).await;
    post("/orders/A-3/close", json!({ "operator_type": "merchant", "operator": "alice", "reason": "r" })).await;
    world.becomes(&order::OrderId::new("A-3").unwrap(), "closed").await;
    let timer = format!("{base}/timers/receipt/A-1");
    let armed = reqwest::Client::new().put(&timer).json(&json!({ "after_s": 60 })).send().await.unwrap();
    assert_eq!(armed.status(), 201);
    post("/timers/receipt/A-1/fire", json!({})).await;
    assert_eq!(reqwest::get(&timer).await.unwrap().json::<Value>().await.unwrap()["state"], "fired");
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("overdue_sample_failures_total 0") && metrics.contains("overdue_outbox_rows"),
        "{metrics}"
    );

    // An endpoint that wants nothing more is stopped by the role, and let go on by the operator.
    let receiver = Receiver::start().await;
    receiver.answers(|_| Reply::status(410));
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "")]);
    assert!(world.overdue(&["topology", "declare", "--webhooks", file.path()]).await.status.success());
    let webhooks =
        roles.start("webhooks", &["run", "--only", "webhooks", "--webhooks", file.path(), "--listen", "127.0.0.1:0"]);
    webhooks.says("running").await;
    let event = br#"{"id":"e","type":"order.closed"}"#;
    world.foreign().await.publish("overdue.events", "order.closed", event, BasicProperties::default()).await;
    webhooks.says("it is stopped").await;
    let mut resume = world.command(&["webhook", "resume", "shop"]);
    assert!(resume.env("OVERDUE_DATABASE_URL", roles.url("operator")).output().await.unwrap().status.success());

    // The console acts with its own rights.
    let pages = roles.start("console", &["run", "--only", "console", "--listen", "127.0.0.1:0"]);
    pages.says("running").await;
    let base = pages.http_base().await;
    let act = async |action: &str, form: &str| {
        let request = reqwest::Client::new().post(format!("{base}/console/act/{action}")).body(form.to_owned());
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success() && text.contains("<strong>done</strong>"), "{action}: {status} {text}");
    };
    let waiting = world.order("tea", Duration::from_secs(3600)).await;
    act("order-extend", &format!("order={}&minutes=5", waiting.id)).await;
    act("order-look", &format!("order={}", waiting.id)).await;
    act("order-close", &format!("order={}", waiting.id)).await;
    world.becomes(&waiting.id, "closed").await;
    act("circuit-probe", "kind=gateway&name=wechat").await;
    act("endpoint-stop", "name=shop").await;
    act("endpoint-resume", "name=shop").await;
    world.execute("select overdue_arm('receipt', 'A-7', now() + interval '1 hour'), overdue_arm('receipt', 'A-8', now() + interval '1 hour')").await;
    act("timer-fire", "timer=receipt:A-7").await;
    act("timer-cancel", "timer=receipt:A-8").await;
    act("audit-run", "").await;
    act("doctor-run", "").await;
    let story = reqwest::get(format!("{base}/console/orders/{}", waiting.id)).await.unwrap().text().await.unwrap();
    assert!(story.contains("order.close") && story.contains("came to a worker"), "{story}");

    for arguments in [&["audit"][..], &["order", "show", "A-1"], &["refunds", "list"]] {
        let mut command = world.command(arguments);
        let output = command.env("OVERDUE_DATABASE_URL", roles.url("operator")).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    for process in [relay, worker, api, webhooks, pages] {
        assert!(!process.log_text().contains("permission denied"), "{}", process.log_text());
        process.kill().await;
    }

    for (role, statement) in [
        ("relay", "select amount_minor from orders"),
        ("relay", "update orders set status = 'paid'"),
        ("relay", "insert into outbox (order_id, due_at) values ('x', now())"),
        ("timers", "select * from timers"),
        ("timers", "update timers set state = 'fired'"),
        ("timers", "insert into outbox (order_id, due_at) values ('x', now())"),
        (
            "timers",
            "create temp table t (kind text, subject text, due_at timestamptz); create trigger mine after insert on t for each row execute function overdue_timer_armed()",
        ),
        (
            "timers",
            "create temp table t (id text); create trigger mine after insert on t for each row execute function overdue_order_ended()",
        ),
        ("timers", "select * from orders"),
        ("webhooks", "select * from orders"),
        ("webhooks", "delete from webhook_endpoints"),
        ("relay", "select overdue_arm('sms', '9', now())"),
        ("worker", "update timers set due_at = now()"),
        ("worker", "insert into orders (id, amount_minor, currency, payment_deadline) values ('x', 1, 'CNY', now())"),
        ("worker", "update orders set amount_minor = 0"),
        ("worker", "update orders set payment_deadline = now()"),
        ("worker", "delete from orders"),
        ("worker", "update order_items set quantity = 1"),
        ("worker", "delete from order_log"),
        ("worker", "delete from refunds"),
        ("worker", "delete from outbox"),
        ("worker", "select count(*) from api_requests"),
        ("worker", "delete from api_requests"),
        ("api", "update orders set amount_minor = 0"),
        ("api", "delete from orders"),
        ("api", "update order_log set reason = 'x'"),
        ("operator", "update orders set status = 'paid'"),
        ("operator", "insert into refunds select * from refunds"),
        ("operator", "update refunds set amount_minor = 0"),
        ("operator", "delete from outbox"),
        ("operator", "drop table orders"),
        (
            "operator",
            "insert into operator_actions (operator, role, action, subject, state) values ('x', 'act', 'x', 'x', 'done')",
        ),
        ("console", "update orders set status = 'paid'"),
        ("console", "delete from operator_actions"),
        ("console", "insert into order_trail (subject, step, actor, detail) values ('x', 'came', 'x', 'x')"),
        ("relay", "select * from operator_actions"),
        ("worker", "select * from order_trail"),
    ] {
        assert!(roles.is_refused(role, statement).await, "{role} may {statement}");
    }
    assert!(!roles.is_refused("worker", "select * from orders").await, "the test can tell");
    world.audit().await;
    roles.drop().await;
    world.close().await;
}
