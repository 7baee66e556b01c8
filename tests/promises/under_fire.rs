//! HTTP under fire: strange paths, bodies and hosts, guessed tokens, forged notifications, clients that never read.

use std::net::{IpAddr, SocketAddr};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::{World, eventually, simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::api::{Server, TOKEN};

fn order(id: &str) -> Value {
    json!({ "id": id, "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 100, "currency": "CNY" })
}

/// Sends these bytes as they are; the answer as it is.
async fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stands_in_path_and_body_the_answer_is_problem_details() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let server = Server::start(&world, &[]).await;
    for path in ["/orders/%ff", "/orders/%c3%28/timeline", "/payments/%ff/notify", "/orders/%00", "/orders/a%2Fb"] {
        let method = if path.ends_with("notify") { "POST" } else { "GET" };
        let answer = raw(
            &server,
            &format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
            ),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{path}: {answer}");
    }
    for id in [".", "..", "", "a/b", "ä", &"x".repeat(65)] {
        let (status, body) = server.post("/orders", order(id)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{id:?}: {body}");
        assert_eq!(body["type"], "urn:overdue:problem:illegal-order-id", "{id:?}");
    }
    let client = Client::new();
    let body = order("o-1").to_string();
    for kind in
        [Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data"), Some(""), None]
    {
        let mut request = client.post(format!("{}/orders", server.base)).bearer_auth(TOKEN).body(body.clone());
        if let Some(kind) = kind {
            request = request.header("Content-Type", kind);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
    }
    let request = client.post(format!("{}/orders", server.base)).bearer_auth(TOKEN).body(body);
    let answer = request.header("Content-Type", "Application/JSON; charset=utf-8").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    // No body needs no type.
    let cancelled = client.post(format!("{}/orders/o-1/cancel", server.base)).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(cancelled.status(), StatusCode::OK);
    // Numbers at the edge of what they can hold.
    world.stock("lot", i64::MAX).await;
    for (quantity, amount, expected) in [
        (i64::MAX, i64::MAX, StatusCode::CREATED),
        (i64::MAX, 1, StatusCode::CONFLICT),
        (0, 1, StatusCode::UNPROCESSABLE_ENTITY),
        (i64::MIN, 1, StatusCode::UNPROCESSABLE_ENTITY),
        (1, i64::MIN, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let id = format!("edge-{quantity}-{amount}");
        let body = json!({ "id": id, "items": [{ "sku": "lot", "quantity": quantity }], "amount_minor": amount, "currency": "CNY" });
        assert_eq!(server.post("/orders", body).await.0, expected, "{quantity} {amount}");
    }
    let twice = json!({ "id": "twice", "items": [{ "sku": "lot", "quantity": i64::MAX }, { "sku": "lot", "quantity": 1 }], "amount_minor": 1, "currency": "CNY" });
    assert_eq!(server.post("/orders", twice).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let above =
        r#"{"id":"above","items":[{"sku":"lot","quantity":9223372036854775808}],"amount_minor":1,"currency":"CNY"}"#;
    let request = client.post(format!("{}/orders", server.base)).bearer_auth(TOKEN).body(above);
    let answer = request.header("Content-Type", "application/json").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_name_in_its_answer_and_in_the_log() {
    let world = World::new().await;
    let simulator = simulator().await;
    let settings = tests::wechat_environment(&simulator);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(&world, &settings).await;
    let client = Client::new();
    let name = async |given: Option<&str>| {
        let mut request = client.post(format!("{}/payments/wechat/notify", server.base)).body("{}");
        if let Some(given) = given {
            request = request.header("X-Request-Id", given);
        }
        request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(name(Some("shop-7f3a")).await, "shop-7f3a");
    server.process.says("a notification was refused").await;
    let log = server.process.log_text();
    let line = log.lines().find(|line| line.contains("a notification was refused")).unwrap();
    assert!(line.contains("shop-7f3a"), "{line}");
    let (first, second) = (name(None).await, name(None).await);
    assert!(first.len() >= 32 && first != second, "{first} {second}");
    let long = "x".repeat(129);
    assert_ne!(name(Some(&long)).await, long);
    assert_ne!(name(Some("two words")).await, "two words");
    // Repeated, they are counted and not each logged.
    for _ in 0..100 {
        name(None).await;
    }
    let lines = server.process.log_text().matches("a notification was refused").count();
    assert!(lines <= 5, "{lines} lines");
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_no_web_page_may_order() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let server = Server::start(&world, &[("OVERDUE_API_TOKEN", "")]).await;
    let client = Client::new();
    let send = async |headers: &[(&str, &str)]| {
        let mut request =
            client.request(Method::POST, format!("{}/orders", server.base)).body(order("o-1").to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status()
    };
    let json = ("Content-Type", "application/json");
    assert_eq!(send(&[json, ("Host", "shop.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(&[json, ("Origin", "https://shop.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(&[json, ("Origin", "null")]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(&[json, ("Sec-Fetch-Site", "cross-site")]).await, StatusCode::FORBIDDEN);
    assert_eq!(send(&[("Content-Type", "text/plain")]).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(world.number("select count(*) from orders").await, 0);
    assert_eq!(send(&[json]).await, StatusCode::CREATED);
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_told_of_and_slowed_down_and_the_right_one_is_not() {
    let world = World::new().await;
    let server = Server::start(&world, &[]).await;
    let client = Client::new();
    let ask = async |token: &str| {
        client.get(format!("{}/orders/o-1", server.base)).bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(ask("wrong").await, StatusCode::UNAUTHORIZED);
    server.process.says("a request came with a wrong token").await;
    // Forty at a time: the right one overtakes them all.
    let wrong: Vec<_> = (0..40)
        .map(|number| {
            let request = client.get(format!("{}/orders/o-1", server.base)).bearer_auth(format!("wrong-{number}"));
            tokio::spawn(request.send())
        })
        .collect();
    assert_eq!(ask(TOKEN).await, StatusCode::NOT_FOUND);
    assert!(wrong.iter().any(|wrong| !wrong.is_finished()), "they are slowed down");
    for wrong in wrong {
        assert_eq!(wrong.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let log = server.process.log_text();
    assert!(log.matches("wrong token").count() <= 3 && !log.contains("wrong-"), "{log}");
    server.process.kill().await;
    world.close().await;
}

async fn connect_from(ip: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the server still has this connection of a client: a line of the system's own table, in hexadecimal digits.
fn is_held(server: SocketAddr, client: SocketAddr) -> bool {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (local, remote) = (format!(":{:04X}", server.port()), format!(":{:04X}", client.port()));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[2].ends_with(&remote) && fields[3] == ESTABLISHED
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_answers_is_hung_up_on() {
    let world = World::new().await;
    let server = Server::start(&world, &[]).await;
    let mut deaf = connect_from("127.0.0.1", server.address()).await;
    let here = deaf.local_addr().unwrap();
    // More answers than the system takes for a client that does not.
    let ask = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    let asking = tokio::spawn(async move {
        let _ = deaf.write_all(ask.as_bytes()).await;
        deaf
    });
    eventually("it is connected", async || is_held(server.address(), here)).await;
    eventually("it is hung up on", async || !is_held(server.address(), here)).await;
    asking.abort();
    server.process.kill().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_keeps_nobody_out() {
    let world = World::new().await;
    let server = Server::start(&world, &[]).await;
    let mut many = Vec::new();
    for _ in 0..600 {
        many.push(connect_from("127.0.0.1", server.address()).await);
    }
    // Those beyond its share are hung up on, and others are served.
    server.process.says("an address has too many connections").await;
    let client = Client::builder().local_address("127.0.0.2".parse::<IpAddr>().unwrap()).build().unwrap();
    let answer = client.get(format!("{}/healthz", server.base)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(many);
    let client = Client::new();
    eventually("its places are free again", async || {
        client.get(format!("{}/healthz", server.base)).send().await.is_ok()
    })
    .await;
    server.process.kill().await;
    world.close().await;
}
