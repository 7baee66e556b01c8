//! Values, addresses and settings at the edges.

use serde_json::json;
use tests::{Proxy, World, simulator, wechat_environment};
use url::Url;

use crate::api::Server;

/// Order IDs that are none of WeChat Pay's trade numbers.
const NOT_FOR_WECHAT: [&str; 5] =
    ["A-1", "8e03978e-40d5-43e8-bc93-6894a57f9324", "SO.2024.0001", "shop:2024:1", "123456789012345678901234567890123"];

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_gateway_does_not_take_is_refused_at_creation() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let simulator = simulator().await;
    let settings = wechat_environment(&simulator);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(&world, &settings).await;
    for id in NOT_FOR_WECHAT {
        let order = |gateway: &str| json!({ "id": id, "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 100, "currency": "CNY", "gateway": gateway });
        let (status, body) = server.post("/orders", order("wechat")).await;
        assert_eq!(status.as_u16(), 422, "{id}: {body}");
        assert!(body["detail"].as_str().unwrap().contains("6 to 32 characters"), "{body}");
        let output = world
            .overdue(&["order", "create", id, "--item", "tea=1", "--amount-minor", "100", "--gateway", "wechat"])
            .await;
        assert_eq!(output.status.code(), Some(1), "{id}: {output:?}");
        assert_eq!(server.post("/orders", order("none")).await.0.as_u16(), 201, "{id} is good without a gateway");
    }
    let good = json!({ "id": "SO_2024-0001", "items": [{ "sku": "tea", "quantity": 1 }], "amount_minor": 100, "currency": "CNY", "gateway": "wechat" });
    assert_eq!(server.post("/orders", good).await.0.as_u16(), 201);
    server.process.kill().await;
    world.close().await;
}

/// Made by SQL, past all that refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_nothing_at_a_gateway_is_for_a_person_and_not_closed_as_unpaid() {
    let world = World::new().await;
    world.stock("tea", 100).await;
    let (free, good) = (world.overdue_order("tea").await, world.overdue_order("tea").await);
    let change = format!(
        "insert into payments (order_id, gateway, prepay) values ('{0}', 'wechat', 'none'); update orders set amount_minor = 0 where id = '{0}'",
        free.id
    );
    world.execute(&change).await;
    let worker = world.worker();
    let foreign = world.foreign().await;
    for order in [&free, &good] {
        foreign.due_now(order.id.as_str().as_bytes()).await;
    }
    world.becomes(&good.id, "closed").await;
    assert_eq!(foreign.parked(1).await[0].reason(), "nothing_to_pay");
    assert_eq!(world.status(&free.id).await, "pending");
    worker.stop().await;
    world.close().await;
}

/// A broker that can be reached at an IPv6 address alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_at_an_ipv6_address_is_the_one_that_is_dialled() {
    let world = World::new().await;
    let mut url: Url = world.amqp_url.parse().unwrap();
    let proxy = Proxy::between("::1", &format!("127.0.0.1:{}", url.port().unwrap())).await;
    url.set_host(Some("[::1]")).unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    let verify = async || {
        let mut command = world.command(&["topology", "verify"]);
        command.env("OVERDUE_AMQP_URL", url.as_str());
        command.output().await.unwrap()
    };
    let output = verify().await;
    assert!(output.status.success(), "{output:?}");
    proxy.cut();
    let output = verify().await;
    assert_eq!(output.status.code(), Some(3), "no other broker is dialled: {output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("[::1]:{}", proxy.port())), "{text}");
    // A virtual host of no name.
    let mut command = world.command(&["topology", "verify"]);
    command.env("OVERDUE_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/");
    let text = String::from_utf8_lossy(&command.output().await.unwrap().stderr).into_owned();
    assert!(text.contains("leave the slash out"), "{text}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_empty_or_malformed_is_named() {
    let world = World::new().await;
    for (name, value, arguments, said) in [
        ("OVERDUE_DATABASE_URL", "", &["audit"][..], "OVERDUE_DATABASE_URL"),
        ("OVERDUE_DATABASE_URL", " ", &["audit"], "database"),
        ("OVERDUE_AMQP_URL", "", &["topology", "verify"], "OVERDUE_AMQP_URL"),
        ("OVERDUE_STATEMENT_TIMEOUT", " ", &["audit"], "OVERDUE_STATEMENT_TIMEOUT"),
        ("OVERDUE_LISTEN", "\n", &["run"], "OVERDUE_LISTEN"),
        ("OVERDUE_LISTEN", "8080", &["run"], "OVERDUE_LISTEN"),
        ("OVERDUE_API_TOKEN", "sixteen bytes and more", &["run", "--listen", "127.0.0.1:0"], "OVERDUE_API_TOKEN"),
        ("OVERDUE_API_TOKEN", "sixteen-bytes-and-more\n\n", &["run", "--listen", "127.0.0.1:0"], "OVERDUE_API_TOKEN"),
        ("OVERDUE_PAYMENT_TIMEOUTS", "30x", &["topology", "export"], "OVERDUE_PAYMENT_TIMEOUTS"),
    ] {
        let mut command = world.command(arguments);
        command.env(name, value);
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={value:?}: {text}");
        assert!(text.contains(said), "{name}={value:?}: {text}");
    }
    // A secret on the command line is told of, and not shown.
    let mut command =
        world.command(&["audit", "--database-url", &world.database_url.replace("127.0.0.1", "localhost")]);
    command.env_remove("OVERDUE_DATABASE_URL");
    let text = String::from_utf8_lossy(&command.output().await.unwrap().stderr).into_owned();
    assert!(text.contains("a secret stands on the command line"), "{text}");
    let password = world.database_url.parse::<Url>().unwrap().password().unwrap().to_owned();
    assert!(!text.contains(&password), "{text}");
    world.close().await;
}
