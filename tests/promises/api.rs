//! The HTTP API as its users meet it. Every answer is checked against the document that the server gives of itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::{Process, Proxy, World, eventually, simulator};
use url::Url;

pub(crate) const TOKEN: &str = "a-token-for-the-tests";

/// A server of the API alone: no relay, no worker, no sweep.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) base: String,
    client: Client,
    document: Value,
}

impl Server {
    pub(crate) async fn start(world: &World, environment: &[(&str, &str)]) -> Self {
        Self::start_with(world, &["--only", "api"], environment).await
    }

    async fn start_with(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = world.command(&["run", "--listen", "127.0.0.1:0"]);
        command.args(arguments).env("OVERDUE_API_TOKEN", TOKEN).envs(environment.iter().copied());
        let process = world.start_command(command);
        process.says("running").await;
        let base = process.http_base().await;
        let client = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let mut server = Self { process, base, client, document: Value::Null };
        server.document = server.send(Method::GET, "/openapi.json", &[], None).await.1;
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.base.trim_start_matches("http://").parse().unwrap()
    }

    /// Sends a request with the token; status and body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(TOKEN);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        if status.as_u16() >= 400 {
            assert_eq!(kind.as_deref(), Some("application/problem+json"), "{path}: {text}");
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if !self.document.is_null() {
            self.assert_documented(&method, path, status, &body);
        }
        (status, body)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    async fn close(&self, id: &str, key: &str, reason: &str) -> (StatusCode, Value) {
        let body = json!({ "operator_type": "merchant", "operator": "alice", "reason": reason });
        self.send(Method::POST, &format!("/orders/{id}/close"), &[("Idempotency-Key", key)], Some(body)).await
    }

    /// Fails unless the document has this path with this status and a schema that the body is of.
    fn assert_documented(&self, method: &Method, path: &str, status: StatusCode, body: &Value) {
        let path = path.split('?').next().unwrap();
        let wanted: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let template = self.document["paths"].as_object().unwrap().iter().find(|(template, _)| {
            let parts: Vec<&str> = template.trim_start_matches('/').split('/').collect();
            parts.len() == wanted.len()
                && parts.iter().zip(&wanted).all(|(part, got)| part.starts_with('{') || part == got)
        });
        let Some((_, operations)) = template else { return };
        let responses = &operations[method.as_str().to_lowercase()]["responses"];
        if responses.is_null() {
            return assert_eq!(status, 405, "{method} {path} is not documented");
        }
        let exact = &responses[status.as_str()];
        let response = if exact.is_object() { exact } else { &responses[format!("{}XX", status.as_u16() / 100)] };
        assert!(response.is_object(), "{method} {path} is not documented to answer {status}");
        let Some(content) = response["content"].as_object() else { return };
        let mut schema = content.values().next().unwrap()["schema"].clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{method} {path} {status}: {errors:?} in {body}");
    }
}

#[track_caller]
pub(crate) fn problem(answer: &(StatusCode, Value), status: u16, name: &str) {
    assert_eq!(
        (answer.0.as_u16(), answer.1["type"].as_str()),
        (status, Some(format!("urn:overdue:problem:{name}").as_str())),
        "{}",
        answer.1
    );
    assert_eq!(answer.1["status"], status);
    assert!(!answer.1["detail"].as_str().unwrap().is_empty());
}

fn order(id: &str, quantity: i64, timeout_s: u64) -> Value {
    order_of(id, "tea", quantity, timeout_s)
}

fn order_of(id: &str, sku: &str, quantity: i64, timeout_s: u64) -> Value {
    json!({ "id": id, "items": [{ "sku": sku, "quantity": quantity }], "amount_minor": 1999, "currency": "CNY", "payment_timeout_s": timeout_s })
}

/// All of an answer was true at one moment: whoever is shown the cancellation in the log is shown a cancelled order.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_and_its_log_are_read_in_one_statement() {
    const OF_THE_LOG: &str = "from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.relation = 'order_log'::regclass";
    let world = World::new().await;
    world.stock("tea", 50).await;
    let server = Server::start(&world, &[]).await;
    // A look waits a tenth of a second for a lock; a machine that is too slow for that is given another order.
    for number in 1.. {
        let id = format!("A-{number}");
        server.post("/orders", order(&id, 1, 1800)).await;
        // The connection that will be used has prepared its statement.
        let path = format!("/orders/{id}");
        assert_eq!(server.get(&path).await.1["status"], "pending");
        // Commits as soon as the look waits for the log.
        let cancel = format!(
            "begin;
             lock table order_log in access exclusive mode;
             update orders set status = 'cancelled' where id = '{id}';
             insert into order_log (order_id, from_status, to_status, reason, actor)
             values ('{id}', 'pending', 'cancelled', 'x', 'shop');
             do $$ begin
                 for i in 1..5000 loop
                     exit when exists (select {OF_THE_LOG} and not granted);
                     perform pg_sleep(0.001);
                 end loop;
             end $$;
             commit"
        );
        let look = async {
            let is_locked = format!("select count(*) {OF_THE_LOG} and mode = 'AccessExclusiveLock'");
            eventually("the log is locked", async || world.number(&is_locked).await == 1).await;
            server.get(&path).await
        };
        let ((), (status, seen)) = tokio::join!(world.execute(&cancel), look);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(number < 20, "{seen}");
            continue;
        }
        let last = seen["log"].as_array().unwrap().last().unwrap();
        assert_eq!((&seen["status"], &last["to"]), (&json!("cancelled"), &json!("cancelled")));
        break;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_has_not_changed_is_not_sent_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let server = Server::start(&world, &[]).await;
    server.post("/orders", order("A-1", 1, 1800)).await;
    let look = async |tag: Option<&str>| {
        let request = server.client.get(format!("{}/orders/A-1", server.base)).bearer_auth(TOKEN);
        let request = if let Some(tag) = tag { request.header("If-None-Match", tag) } else { request };
        let answer = request.send().await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers()["cache-control"], "private, no-cache");
        (answer.status().as_u16(), tag, answer.text().await.unwrap().len())
    };
    let (status, tag, length) = look(None).await;
    assert_eq!(status, 200);
    assert!(length > 100);
    assert_eq!(look(Some(&tag)).await, (304, tag.clone(), 0));
    server.post("/orders/A-1/pay", json!({})).await;
    let (status, other, _) = look(Some(&tag)).await;
    assert_eq!(status, 200);
    assert_ne!(other, tag);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_created_paid_and_told_of() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let server = Server::start(&world, &[]).await;
    let (status, created) = server.post("/orders", order("A-1", 2, 1800)).await;
    assert_eq!((status.as_u16(), &created["status"], &created["overdue"]), (201, &json!("pending"), &json!(false)));
    assert_eq!(world.shelf("tea").await, (3, 2));
    problem(&server.post("/orders", order("A-1", 2, 1800)).await, 409, "order-exists");
    problem(&server.post("/orders", order("A-2", 4, 1800)).await, 409, "not-enough-stock");
    problem(&server.post("/orders", order("A 2", 1, 1800)).await, 422, "illegal-order-id");
    problem(&server.post("/orders", order("A-2", 0, 1800)).await, 422, "invalid-order");
    problem(&server.post("/orders", order("A-2", 1, 0)).await, 422, "invalid-order");
    problem(&server.post("/orders", json!({ "id": "A-2" })).await, 400, "malformed-body");
    let at_nowhere = json!({ "id": "A-2", "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 1, "currency": "CNY", "gateway": "nowhere" });
    problem(&server.post("/orders", at_nowhere).await, 422, "unknown-gateway");
    problem(&server.get("/orders/A-2").await, 404, "unknown-order");
    problem(&server.get("/nothing").await, 404, "no-such-resource");
    problem(&server.send(Method::DELETE, "/orders/A-1", &[], None).await, 405, "method-not-allowed");
    let large = json!({ "id": "x".repeat(70_000) });
    problem(&server.post("/orders", large).await, 413, "body-too-large");

    let later = "2100-01-01T00:00:00Z";
    problem(&server.post("/orders/A-1/extend", json!({ "payment_deadline": later })).await, 422, "invalid-order");
    problem(
        &server.post("/orders/A-1/extend", json!({ "payment_deadline": "2020-01-01T00:00:00Z" })).await,
        409,
        "not-later",
    );
    let tomorrow = (time::OffsetDateTime::now_utc() + time::Duration::DAY).replace_nanosecond(0).unwrap();
    let tomorrow = order::Deadline::at(tomorrow).to_string();
    let extension = json!({ "payment_deadline": tomorrow, "reason": "asked for it", "operator_type": "support", "operator": "bob" });
    let (status, extended) = server.post("/orders/A-1/extend", extension).await;
    assert_eq!((status.as_u16(), &extended["payment_deadline"]), (200, &json!(tomorrow)));

    let (status, paid) = server.post("/orders/A-1/pay", json!({ "transaction_id": "T-1" })).await;
    assert_eq!((status.as_u16(), &paid["status"], &paid["transaction_id"]), (200, &json!("paid"), &json!("T-1")));
    problem(&server.post("/orders/A-1/pay", json!({})).await, 409, "order-not-pending");
    problem(&server.post("/orders/A-1/cancel", json!({})).await, 409, "order-not-pending");
    let (_, timeline) = server.get("/orders/A-1/timeline").await;
    let told: Vec<&str> =
        timeline["entries"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["created", "deadline moved", "paid"]);
    assert_eq!(timeline["entries"][1]["operator"], "support bob");

    server.post("/orders", order("A-3", 1, 1800)).await;
    let (status, cancelled) = server.post("/orders/A-3/cancel", json!({})).await;
    assert_eq!((status.as_u16(), &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(world.shelf("tea").await, (3, 0));
    server.process.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_at_an_overdue_order_finds_it_closed() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let (seen, paid) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let server = Server::start(&world, &[]).await;
    // Twenty people at once.
    let path = format!("/orders/{}", seen.id);
    let answers = join_all((0..20).map(|_| server.get(&path))).await;
    assert!(answers.iter().all(|(status, _)| status.is_success()));
    assert_eq!(server.get(&path).await.1["status"], "closed");
    assert_eq!(
        world.number("select count(*) from order_log where actor = 'passive' and to_status = 'closed'").await,
        1
    );
    // Nobody may pay it any more, and it closes by itself.
    problem(&server.post(&format!("/orders/{}/pay", paid.id), json!({})).await, 409, "order-overdue");
    world.becomes(&paid.id, "closed").await;
    problem(&server.post(&format!("/orders/{}/pay", paid.id), json!({})).await, 409, "order-not-pending");
    assert_eq!(world.shelf("tea").await, (5, 0));
    server.process.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_closes_an_order_once_whatever_is_sent_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    let id = order.id.as_str();
    let server = Server::start(&world, &[]).await;
    let body = json!({ "operator_type": "merchant", "operator": "alice", "reason": "r" });
    problem(&server.post(&format!("/orders/{id}/close"), body).await, 400, "idempotency-key-missing");
    problem(&server.close("nothing", "k-0", "r").await, 404, "unknown-order");

    // The first is held up in the middle; the same again meanwhile is told so.
    let gate = world.gate("insert on order_log").await;
    let first = server.close(id, "k-1", "customer called");
    let second = async {
        eventually("the first is at work", async || world.waiting_for_locks().await == 1).await;
        let answer = server.close(id, "k-1", "customer called").await;
        gate.open().await;
        answer
    };
    let (first, second) = futures_util::future::join(first, second).await;
    problem(&second, 409, "request-in-flight");
    assert_eq!((first.0.as_u16(), &first.1["status"]), (200, &json!("closed")));
    // Done: the same answer, with and without quotes; anything else under that key is refused.
    assert_eq!(server.close(id, "k-1", "customer called").await, first);
    assert_eq!(server.close(id, "\"k-1\"", "customer called").await, first);
    problem(&server.close(id, "k-1", "another reason").await, 422, "idempotency-key-reused");
    problem(&server.close("o-99", "k-1", "customer called").await, 422, "idempotency-key-reused");
    // A refusal is an answer, too.
    assert_eq!(server.close("nothing", "k-0", "r").await.0.as_u16(), 404);

    let log: Vec<(String, String, Option<String>, Option<String>)> = sqlx::query_as(
        "select to_status, reason, operator_type, operator from order_log where order_id = $1 order by id",
    )
    .bind(id)
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(log.len(), 3, "{log:?}");
    let (status, reason, kind, operator) = &log[2];
    assert_eq!((status.as_str(), reason.as_str()), ("closed", "customer called"));
    assert_eq!((kind.as_deref(), operator.as_deref()), (Some("merchant"), Some("alice")));
    assert_eq!(world.shelf("tea").await, (5, 0));
    server.process.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_server_died_may_be_taken_up_by_another() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    let server = Server::start(&world, &[]).await;
    let gate = world.gate("insert on order_log").await;
    let doomed = tokio::spawn({
        let request = server.client.post(format!("{}/orders/{}/close", server.base, order.id)).bearer_auth(TOKEN);
        let body = json!({ "operator_type": "merchant", "operator": "alice", "reason": "r" });
        request.header("Idempotency-Key", "k-1").json(&body).send()
    });
    eventually("it is at work", async || world.waiting_for_locks().await == 1).await;
    server.process.kill().await;
    assert!(doomed.await.unwrap().is_err());
    world.disconnect_everybody().await;
    gate.open().await;
    let server = Server::start(&world, &[]).await;
    problem(&server.close(order.id.as_str(), "k-1", "r").await, 409, "request-in-flight");
    world.execute("update api_requests set claimed_until = now() - interval '1 second'").await;
    let (status, closed) = server.close(order.id.as_str(), "k-1", "r").await;
    assert_eq!((status.as_u16(), &closed["status"]), (200, &json!("closed")));
    server.process.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_under_orders_answers() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let order_id = world.overdue_order("tea").await.id;
    let server = Server::start(&world, &[]).await;
    let status = async |method: Method, path: &str, token: Option<&str>| {
        let mut request = server.client.request(method, format!("{}{path}", server.base)).json(&order("A-1", 1, 60));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    for token in [None, Some(""), Some("a-token-for-the-test"), Some("a-token-for-the-testt")] {
        assert_eq!(status(Method::POST, "/orders", token).await, 401);
        for action in ["pay", "cancel", "close", "extend"] {
            assert_eq!(status(Method::POST, &format!("/orders/{order_id}/{action}"), token).await, 401);
        }
        assert_eq!(status(Method::GET, &format!("/orders/{order_id}"), token).await, 401);
    }
    assert_eq!(world.status(&order_id).await, "pending", "nothing was done");
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(status(Method::GET, open, None).await, 200);
    }
    server.process.kill().await;

    // Where other machines can connect, there is no server without a token.
    let mut command = world.command(&["run", "--only", "api", "--listen", "0.0.0.0:0"]);
    command.env_remove("OVERDUE_API_TOKEN");
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("set OVERDUE_API_TOKEN"));
    for (arguments, token, sentence) in [
        (&["run", "--only", "api"][..], TOKEN, "the role api needs --listen"),
        (&["run", "--only", "api", "--listen", "127.0.0.1:0"][..], "short", "16 bytes or more"),
        (&["run", "--only", "api", "--listen", "192.0.2.1:1"][..], TOKEN, "cannot listen at 192.0.2.1:1"),
    ] {
        let mut command = world.command(arguments);
        let output = command.env("OVERDUE_API_TOKEN", token).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(sentence), "{output:?}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_makes_an_order_paid_and_a_forged_one_does_not() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 5).await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    assert!(simulator.ledger().pay(order.id.as_str()));
    let mut environment = tests::wechat_environment(&simulator);
    environment.extend(tests::alipay_environment(&simulator));
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(&world, &environment).await;
    let (headers, body) = simulator.notification(order.id.as_str());
    let send = async |body: Vec<u8>| {
        let request = server.client.post(format!("{}/payments/wechat/notify", server.base));
        request.headers(headers.clone()).body(body).send().await.unwrap().status().as_u16()
    };
    let mut forged = body.clone();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    assert_eq!(send(forged).await, 401);
    assert_eq!(world.status(&order.id).await, "pending");
    assert_eq!(send(body).await, 204);
    assert_eq!(world.status(&order.id).await, "paid");
    problem(&server.post("/payments/nowhere/notify", json!({})).await, 404, "unknown-gateway");
    // Alipay wants to read a word.
    simulator.ledger().open("trade_9", 1999, "CNY");
    let (headers, body) = simulator.alipay_notification("trade_9");
    let request = server.client.post(format!("{}/payments/alipay/notify", server.base)).headers(headers).body(body);
    let taken = request.send().await.unwrap();
    assert_eq!((taken.status().as_u16(), taken.text().await.unwrap().as_str()), (200, "success"));
    server.process.kill().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_ready_while_its_servers_answer() {
    let mut world = World::new().await;
    let mut url: Url = world.database_url.parse().unwrap();
    let proxy = Proxy::to(&format!("127.0.0.1:{}", url.port().unwrap())).await;
    url.set_port(Some(proxy.port())).unwrap();
    let direct = std::mem::replace(&mut world.database_url, url.to_string());
    let server = Server::start_with(&world, &["--only", "api"], &[]).await;
    assert_eq!(server.get("/readyz").await.0.as_u16(), 200);
    proxy.cut();
    eventually("it is not ready", async || server.get("/readyz").await.0.as_u16() == 503).await;
    problem(&server.get("/orders/A-1").await, 503, "database-away");
    assert_eq!(server.get("/healthz").await.0.as_u16(), 200, "it lives all the same");
    proxy.pass();
    eventually("it is ready again", async || server.get("/readyz").await.0.as_u16() == 200).await;
    server.process.kill().await;
    world.database_url = direct;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_what_was_done() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let management = tests::env("OVERDUE_MANAGEMENT_URL");
    let server = Server::start_with(&world, &[], &[("OVERDUE_MANAGEMENT_URL", &management)]).await;
    let order = world.overdue_order("tea").await;
    world.foreign().await.due_now(order.id.as_str().as_bytes()).await;
    world.becomes(&order.id, "closed").await;
    let page = async || server.get("/metrics").await.1.as_str().unwrap().to_owned();
    for line in [
        "overdue_orders_total{outcome=\"closed\"} 1",
        "overdue_close_lateness_seconds_count 1",
        "overdue_build_info{version=",
        "overdue_database_pool_connections{pool=\"worker\",state=\"max\"} 11",
        "overdue_consumers 6",
        "overdue_sweep_leader 1",
        "overdue_outbox_rows{kind=\"timeout\"} 0",
        "overdue_orders_past_deadline 0",
        "overdue_relay_events_total 1",
        "overdue_queue_letters_held{queue=\"overdue.v1.delay.30m\"} 0",
        "overdue_queue_consumers{queue=\"overdue.v1.due.payment\"} 2",
    ] {
        eventually(&format!("the metrics say {line}"), async || page().await.contains(line)).await;
    }
    assert!(page().await.ends_with("# EOF\n"));
    server.process.kill().await;
    world.close().await;
}

#[tokio::test]
async fn the_document_in_the_repository_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.openapi.json");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
    let served: Value = serde_json::from_str(&api::openapi()).unwrap();
    assert!(written == served, "docs/api.openapi.json is old: run `make definitions`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_made_is_not_refused_to_whoever_asks_for_it_again() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let server = Server::start(&world, &[]).await;
    // The answer cannot be kept: the server dies between the change and that.
    let gate = world.gate("update of status on api_requests").await;
    let send = async |server: &Server| {
        server.send(Method::POST, "/orders", &[("Idempotency-Key", "k-1")], Some(order("A-1", 1, 1800))).await
    };
    let doomed = tokio::spawn({
        let request = server.client.post(format!("{}/orders", server.base)).bearer_auth(TOKEN);
        request.header("Idempotency-Key", "k-1").json(&order("A-1", 1, 1800)).send()
    });
    eventually("the order is there", async || world.number("select count(*) from orders").await == 1).await;
    eventually("the answer is about to be kept", async || world.waiting_for_locks().await == 1).await;
    server.process.kill().await;
    assert!(doomed.await.unwrap().is_err());
    world.disconnect_everybody().await;
    gate.open().await;
    world.execute("update api_requests set claimed_until = now() - interval '1 second'").await;
    let server = Server::start(&world, &[]).await;
    let (status, created) = send(&server).await;
    assert_eq!((status.as_u16(), &created["id"]), (201, &json!("A-1")));
    assert_eq!(send(&server).await, (status, created), "and from then on the same");
    assert_eq!(world.shelf("tea").await, (4, 1), "reserved once");
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_look_at_one_order_have_its_gateway_asked_once() {
    let (world, simulator) = (World::new().await, simulator().await);
    world.stock("tea", 5).await;
    let unpaid = world.order_at_gateway(&simulator, &[]).await;
    let environment = tests::wechat_environment(&simulator);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(&world, &environment).await;
    simulator.delay(Duration::from_millis(200));
    let path = format!("/orders/{}", unpaid.id);
    let answers = join_all((0..30).map(|_| server.get(&path))).await;
    assert!(answers.iter().all(|(_, order)| order["status"] == "closed"), "all wait for the same");
    assert_eq!(simulator.statistics().calls, 3, "query, close, query");
    // One that cannot be settled is left alone for a while.
    simulator.delay(Duration::ZERO);
    simulator.outage(Some(gateway_sim::Mishap::Error(500, "SYSTEM_ERROR".to_owned())));
    let stuck = world.order_at_gateway(&simulator, &[]).await;
    let path = format!("/orders/{}", stuck.id);
    assert_eq!(server.get(&path).await.1["overdue"], true);
    let calls = simulator.statistics().calls;
    for _ in 0..10 {
        server.get(&path).await;
    }
    assert_eq!(simulator.statistics().calls, calls);
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_its_body_byte_by_byte_is_shown_the_door() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let server = Server::start(&world, &[]).await;
    let mut slow = tokio::net::TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    slow.write_all(b"POST /payments/wechat/notify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body-too-slow"), "{answer}");
    server.process.kill().await;
    world.close().await;
}

/// The stand-in for a replica is another database, in which orders stand differently: so it shows who was asked.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_asks_the_replica_and_gets_the_truth_where_it_matters() {
    let (primary, replica) = (World::new().await, World::new().await);
    for world in [&primary, &replica] {
        world.stock("tea", 100).await;
    }
    let hour = Duration::from_secs(3600);
    let order = primary.order("tea", hour).await;
    let late = primary.overdue_order("tea").await;
    let new = primary.order("tea", hour).await;
    for (id, deadline) in [(&order.id, order.deadline), (&late.id, late.deadline)] {
        replica
            .execute(&format!("insert into orders (id, amount_minor, currency, payment_deadline) values ('{id}', 7, 'CNY', '{deadline}')"))
            .await;
    }
    let proxy = {
        let url: Url = replica.database_url.parse().unwrap();
        Proxy::to(&format!("127.0.0.1:{}", url.port().unwrap())).await
    };
    let mut url: Url = replica.database_url.parse().unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    let url = url.to_string();
    let server = Server::start(&primary, &[("OVERDUE_READ_DATABASE_URL", &url)]).await;
    let amount = async |id: &order::OrderId, headers: &[(&str, &str)]| {
        let (status, view) = server.send(Method::GET, &format!("/orders/{id}"), headers, None).await;
        assert_eq!(status, StatusCode::OK, "{view}");
        (view["amount_minor"].as_i64().unwrap(), view["status"].as_str().unwrap().to_owned())
    };
    let pending = |amount: i64| (amount, "pending".to_owned());
    assert_eq!(amount(&order.id, &[]).await, pending(7), "the replica was asked");
    assert_eq!(amount(&order.id, &[("cache-control", "max-age=0, no-cache")]).await, pending(1999), "the primary was");
    assert_eq!(amount(&new.id, &[]).await, pending(1999), "what has not arrived there is found");
    assert_eq!(amount(&late.id, &[]).await, (1999, "closed".to_owned()), "what is overdue is closed");
    assert_eq!(replica.status(&late.id).await, "pending", "nothing is written to the replica");
    let (_, timeline) = server.send(Method::GET, &format!("/orders/{}/timeline", new.id), &[], None).await;
    assert_eq!(timeline["entries"][0]["what"], "created", "{timeline}");

    proxy.cut();
    assert_eq!(amount(&order.id, &[]).await, pending(1999), "the primary stands in");
    server.process.says("the read replica cannot be asked").await;
    primary.audit().await;
    primary.close().await;
    replica.close().await;
}

/// PostgreSQL may end a wait for a lock and have forgotten why, as if somebody had cancelled the statement: it is a lock still.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_lock_that_ends_without_its_reason_is_one_for_a_lock() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let server = Server::start(&world, &[]).await;
    assert_eq!(server.post("/orders", order("A-1", 1, 3600)).await.0, 201);
    let mut connection = world.connection().await;
    let mut session = sqlx::Connection::begin(&mut *connection).await.unwrap();
    sqlx::query("select from orders where id = 'A-1' for update").execute(&mut *session).await.unwrap();
    let mut ended = 0;
    let mut paying = std::pin::pin!(server.post("/orders/A-1/pay", json!({})));
    let answer = loop {
        let end = world.number(
            "select count(*) from (select pg_cancel_backend(pid) as is_done from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock') waiting where is_done",
        );
        tokio::select! {
            answer = &mut paying => break answer,
            more = end => ended += more,
        }
    };
    problem(&answer, 503, "order-locked");
    assert!(ended > 0, "no wait was ended");
    session.rollback().await.unwrap();
    drop(connection);
    assert_eq!(server.post("/orders/A-1/pay", json!({})).await.0, 200);
    server.process.terminate().await;
    world.close().await;
}

/// An order that another transaction holds keeps no connection from other requests, and its own get an answer soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_keeps_nothing_from_others() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    for number in 0..20 {
        world.stock(&format!("cup-{number}"), 1).await;
    }
    let server = Server::start(&world, &[]).await;
    for id in ["A-1", "A-2"] {
        assert_eq!(server.post("/orders", order(id, 1, 3600)).await.0, 201);
    }
    let mut connection = world.connection().await;
    let mut session = sqlx::Connection::begin(&mut *connection).await.unwrap();
    sqlx::query("select from orders where id = 'A-1' for update").execute(&mut *session).await.unwrap();
    // More than there are connections. Each of the others buys something of its own: stock is no lock that they share.
    let locked = (0..20).map(|_| server.post("/orders/A-1/pay", json!({})));
    let others = (0..20)
        .map(|number| server.post("/orders", order_of(&format!("B-{number}"), &format!("cup-{number}"), 1, 3600)));
    let others = others.collect::<Vec<_>>();
    let (locked, others, paid) =
        tokio::join!(join_all(locked), join_all(others), server.post("/orders/A-2/pay", json!({})));
    for answer in &locked {
        problem(answer, 503, "order-locked");
    }
    assert!(others.iter().all(|(status, _)| *status == 201), "{others:?}");
    assert_eq!(paid.0, 200);
    session.rollback().await.unwrap();
    drop(connection);
    assert_eq!(server.post("/orders/A-1/pay", json!({})).await.0, 200);

    // What no gateway calls a payment is refused at the door; so is an order of nothing at a gateway.
    problem(
        &server.post("/orders/B-1/pay", json!({ "transaction_id": "9".repeat(9000) })).await,
        422,
        "invalid-request",
    );
    // A trigger of the shop's own, with a code of its own, is no outage.
    world
        .execute(
            "create function shop_rule() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = 'SH001'; end $$;
             create trigger shop_rule before update of status on orders for each row execute function shop_rule()",
        )
        .await;
    problem(&server.post("/orders/B-2/pay", json!({})).await, 422, "refused");
    server.process.terminate().await;
    world.close().await;
}
