//! What the pages tell.

use std::time::Duration;

use console::PAGES;
use order::OrderId;
use shop::NewOrder;
use tests::{EndpointFile, Proxy, Receiver, Reply, World, endpoint, eventually, simulator};
use url::Url;

use crate::stage::{ACTS, Stage, park};

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_order_has_its_late_payment_and_its_refund_and_who_did_what() {
    let (world, simulator) = (World::with_timeouts(&["2s"]).await, simulator().await);
    world.stock("tea", 5).await;
    let environment = tests::wechat_environment(&simulator);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let stage = Stage::with(&world, &["run"], &environment).await;
    let order = world.order_at_gateway(&simulator, &[]).await;
    let path = format!("/console/orders/{}", order.id);
    stage.done("order-close", &[("order", order.id.as_str()), ("why", "asked by phone")]).await;
    world.becomes(&order.id, "closed").await;
    // The customer pays all the same.
    simulator.ledger().pay_closed(order.id.as_str());
    let (headers, body) = simulator.notification(order.id.as_str());
    let notify = stage.client.post(format!("{}/payments/wechat/notify", stage.base)).headers(headers).body(body);
    assert!(notify.send().await.unwrap().status().is_success());
    eventually("the money is back", async || {
        world.number("select count(*) from refunds where state = 'succeeded'").await == 1
    })
    .await;
    for step in [
        "created and armed",
        "gateway asked",
        "payment begun",
        "deadline moved",
        "order.close",
        "alice",
        "notification",
        "late payment: refund recorded",
        "refund arrived",
        "event sent",
        "payment.late",
        "payment.refunded",
        "Nothing. The order has ended.",
    ] {
        stage.shows(&path, step).await;
    }
    let page = stage.page(&path).await;
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
    assert!(
        at("created and armed") < at("gateway asked") && at("gateway asked") < at("late payment"),
        "in their order"
    );
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_id_has_in_it_has_a_page() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let stage = Stage::new(&world).await;
    for id in [".", "..", "a.b", "a:b", "close", "list", "-", "~x"] {
        let Ok(order) = OrderId::new(id) else { continue };
        let new = NewOrder { id: order, ..world.new_order(&[("tea", 1)], Duration::from_secs(3600)) };
        world.create(&new).await.unwrap();
        // As a browser goes: a segment of dots leads up.
        let found = stage.get(&format!("/console/orders?id={}", id.replace(':', "%3A"))).send().await.unwrap();
        let page = match found.headers().get("location") {
            Some(to) => stage.page(to.to_str().unwrap()).await,
            None => found.text().await.unwrap(),
        };
        assert!(page.contains("created and armed") && page.contains(&format!("Order {id}")), "{id}: {page}");
    }
    // What can be no ID is told of, whatever is in it.
    for odd in ["SO%2F2024%2F001", "%23x", "%3Cscript%3E", "%E8%AE%A2%E5%8D%95", "a%00b", "%FF"] {
        let response = stage.get(&format!("/console/orders/{odd}")).send().await.unwrap();
        let (status, page) = (response.status(), response.text().await.unwrap());
        assert!(
            status.as_u16() < 500 && !page.contains("<script>x") && !page.contains("<script></"),
            "{odd}: {status}"
        );
    }
    let page = stage.page("/console/orders?id=SO%2F2024%2F001").await;
    assert!(page.contains("No order is called SO/2024/001"), "{page}");
    assert!(stage.page("/console/orders?id=a").await.contains("Orders that begin like this"));
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_text_and_nothing_else() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    let evil = "<img src=x onerror=alert(1)>\u{202e}\"'";
    sqlx::query(
        "insert into parked (reason, detail, orders, routing_key, headers, body, fingerprint, first_at, last_at)
         values ($1, $1, array[$1], $1, jsonb_build_object($1, $1), convert_to($1, 'UTF8'), 'x', now(), now())",
    )
    .bind(evil)
    .execute(&world.pool)
    .await
    .unwrap();
    stage.act(ACTS, "endpoint-stop", &[("name", "shop"), ("note", evil)]).await;
    stage.act(ACTS, "order-look", &[("order", evil)]).await;
    let message = format!("/console/parked/{}", world.number("select id from parked").await);
    for path in
        ["/console", "/console/parked", "/console/parked/list", &message, "/console/gateways", "/console/actions"]
    {
        let page = stage.page(path).await;
        assert!(!page.contains("<img src=x") && !page.contains('\u{202e}'), "{path}: {page}");
    }
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_its_policy_and_is_kept_by_nobody() {
    let world = World::new().await;
    let stage = Stage::new(&world).await;
    for path in PAGES.into_iter().chain(["/console/nowhere", "/console/assets/console.js"]) {
        let response = stage.get(path).send().await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            (header("referrer-policy"), header("x-content-type-options")),
            ("no-referrer".to_owned(), "nosniff".to_owned())
        );
        assert_eq!(header("cache-control").contains("no-store"), !path.contains("assets"), "{path}");
        let page = response.text().await.unwrap();
        let inline = page.contains("<script>")
            || page.contains(" style=")
            || page.contains(" onclick=")
            || page.contains("<style");
        assert!(path.contains("assets") || !inline, "{path}");
    }
    assert_eq!(stage.get("/console/nowhere").send().await.unwrap().status(), 404);
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_the_page_says_since_when_and_shows_what_it_knew() {
    let mut world = World::new().await;
    let mut url: Url = world.database_url.parse().unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let proxy = Proxy::to(&server).await;
    let direct = world.database_url.clone();
    url.set_port(Some(proxy.port())).unwrap();
    world.database_url = url.to_string();
    let stage = Stage::with(&world, &["run", "--only", "console,sweep"], &[]).await;
    world.database_url = direct;
    park(&world, 2, "k").await;
    stage.shows("/console", "Parked messages: 2 (not_json)").await;
    proxy.cut();
    stage.shows("/console", "The database cannot be asked").await;
    let page = stage.page("/console").await;
    assert!(page.contains("Parked messages: 2 (not_json)") && page.contains("since <time"), "what it knew: {page}");
    assert!(!page.contains("Nothing is wrong"), "it is not known");
    assert!(!stage.page("/console/orders/A-1").await.contains("Nothing. The order"), "nothing is made up");
    let refused = stage.act(ACTS, "doctor-run", &[]).await;
    assert_eq!(refused.status(), 409, "what cannot be written down is not done");
    proxy.pass();
    eventually("it is back", async || !stage.page("/console").await.contains("The database cannot be asked")).await;
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_was_given_up_is_shown_and_tried_when_an_operator_says_so() {
    let world = World::new().await;
    world.stock("tea", 50).await;
    let receiver = Receiver::start().await;
    receiver.answers(|_| Reply::status(503));
    let file = EndpointFile::with(&world, &[endpoint("shop", &receiver.url(), "concurrency = 16")]);
    assert!(world.overdue(&["topology", "declare", "--webhooks", file.path()]).await.status.success());
    let stage = Stage::with(&world, &["run", "--webhooks", file.path()], &[]).await;
    let order = world.order("tea", Duration::from_millis(300)).await;
    for _ in 0..20 {
        world.order("tea", Duration::from_millis(300)).await;
    }
    // Another look would be a minute later.
    stage.shows("/console/gateways", "given up for a while").await;
    stage.shows("/console", "Endpoint shop is given up for a while: HTTP 503").await;
    receiver.answers(|_| Reply::status(204));
    stage.done("circuit-probe", &[("kind", "endpoint"), ("name", "shop")]).await;
    stage.shows("/console/gateways", "delivered to").await;
    eventually("it is delivered to again", async || receiver.received().len() > 21).await;
    let delivered = "select count(*) from order_trail where step = 'delivered'";
    eventually("deliveries are on record", async || world.number(delivered).await > 0).await;
    stage.shows(&format!("/console/orders/{}", order.id), "webhook not taken").await;
    stage.end().await;
    // Nobody delivers any more, and nobody's circuit tells of it.
    world.execute("delete from processes").await;
    let stage =
        Stage::with(&world, &["run", "--only", "relay,worker,sweep,console", "--webhooks", file.path()], &[]).await;
    world.order("tea", Duration::from_millis(300)).await;
    stage.shows("/console", "overdue.v1.webhook.shop").await;
    assert!(!stage.page("/console").await.contains("Nothing is wrong"));
    stage.end().await;
    world.close().await;
}
