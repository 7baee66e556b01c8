//! The console in a browser: `browser.mjs` drives Chromium.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use console::PAGES;
use gateway_sim::Simulator;
use serde_json::json;
use tests::{World, env, simulator};
use tokio::process::Command;
use tokio::time::timeout;

use crate::stage::{ACTS, LOOKS, Stage, park};

/// Whether everything is to be run.
pub(crate) fn all() -> bool {
    std::env::var("OVERDUE_TEST_CONSOLE").is_ok_and(|part| part == "all")
}

async fn browse(stage: &Stage, (name, password): (&str, &str), scenarios: &[&str], more: &[(&str, String)]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("console/browser.mjs");
    let mut command = Command::new("node");
    command.arg(script).args(scenarios).env("CONSOLE_URL", &stage.base).kill_on_drop(true);
    command.env("CONSOLE_USER", name).env("CONSOLE_PASSWORD", password);
    command.env("NODE_PATH", env("NODE_PATH")).env("OVERDUE_TEST_CHROMIUM", env("OVERDUE_TEST_CHROMIUM"));
    command
        .envs(more.iter().map(|(name, value)| (*name, value.as_str())))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = timeout(Duration::from_mins(5), command.output()).await.expect("the browser ends").expect("node runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{said}\n{complained}");
}

/// A console with something on every page.
async fn furnished(world: &World) -> (Stage, Simulator) {
    let simulator = simulator().await;
    let environment = tests::wechat_environment(&simulator);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    world.stock("tea", 500).await;
    let stage = Stage::with(world, &["run"], &environment).await;
    park(world, 12, "x").await;
    for _ in 0..30 {
        world.order("tea", Duration::from_millis(200)).await;
    }
    let order = world.order_at_gateway(&simulator, &[]).await;
    stage.done("order-close", &[("order", order.id.as_str()), ("why", "asked by phone")]).await;
    world.becomes(&order.id, "closed").await;
    simulator.ledger().pay_closed(order.id.as_str());
    let (headers, body) = simulator.notification(order.id.as_str());
    let notify = stage.client.post(format!("{}/payments/wechat/notify", stage.base)).headers(headers).body(body);
    assert!(notify.send().await.unwrap().status().is_success());
    let waiting = world.new_order(&[("tea", 2)], Duration::from_secs(1800));
    let waiting = shop::NewOrder { id: order::OrderId::new("A-1").unwrap(), ..waiting };
    world.create(&waiting).await.unwrap();
    world.execute("select overdue_arm('receipt', 'A-1', now() + interval '2 hours', '{\"sms\":true}')").await;
    world
        .execute("insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem, created_at)
                  values ('overdue-7', 'A-0', 'wechat', 'A-0', '4200001234202611301234567890', 129900, 'CNY', 'the order was closed before', 'needs_person',
                          'the gateway cannot complete it (the customer''s account may be gone); complete it there', now() - interval '5 hours')")
        .await;
    stage.done("doctor-run", &[]).await;
    stage.done("audit-run", &[]).await;
    stage.done("endpoint-stop", &[("name", "warehouse"), ("note", "it is being moved")]).await;
    (stage, simulator)
}

/// The page of a parked message.
async fn message(world: &World) -> String {
    format!("/console/parked/{}", world.number("select min(id) from parked where state = 'held'").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_browser_it_is_whole_readable_and_within_its_policy() {
    let world = World::new().await;
    let (stage, _simulator) = furnished(&world).await;
    let message = message(&world).await;
    let pages: Vec<&str> = PAGES
        .into_iter()
        .chain([message.as_str(), "/console/parked/list", "/console/nowhere", "/console/timers?subject=A-1"])
        .collect();
    let pages = json!(pages).to_string();
    browse(&stage, ACTS, &["look", "renew", "away"], &[("CONSOLE_PAGES", pages)]).await;
    stage.end().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_without_javascript_and_shows_a_looker_what_is_not_his() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let stage = Stage::new(&world).await;
    park(&world, 3, "x").await;
    let order = world.order("tea", Duration::from_secs(3600)).await;
    let order = [("CONSOLE_ORDER", order.id.to_string())];
    browse(&stage, LOOKS, &["looker"], &order).await;
    browse(&stage, ACTS, &["plain"], &order).await;
    stage.end().await;
    world.close().await;
}

/// Heavy: `make test-console` runs it.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_tabs_cost_the_database_no_more_than_one() {
    if !all() {
        return;
    }
    let world = World::new().await;
    let stage = Stage::with(&world, &["run", "--only", "console,sweep"], &[]).await;
    let commits = format!("select xact_commit from pg_stat_database where datname = '{}'", world.vhost);
    let before = world.number(&commits).await;
    browse(&stage, ACTS, &["tabs"], &[]).await;
    let cost = world.number(&commits).await - before;
    println!("transactions while sixty tabs renewed themselves: {cost}");
    // They renew themselves three hundred times in ten seconds; each look is some ten statements.
    assert!(cost < 1_500, "{cost} transactions");
    stage.end().await;
    world.close().await;
}

/// Pictures for `docs/console.md`: `make test-console` makes them anew.
#[tokio::test(flavor = "multi_thread")]
async fn every_screen_has_its_picture() {
    if !all() {
        return;
    }
    let world = World::new().await;
    let (stage, _simulator) = furnished(&world).await;
    let closed: String = sqlx::query_scalar("select order_id from refunds where refund_no <> 'overdue-7' limit 1")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let shots = json!({
        "now": "/console", "lanes": "/console/lanes", "orders": "/console/orders?id=o-", "story": format!("/console/orders/{closed}"),
        "pending": "/console/orders/A-1", "parked": "/console/parked", "list": "/console/parked/list?reason=not_json",
        "message": message(&world).await, "confirm": "/console/parked/confirm?action=drop&reason=not_json&until=999",
        "refunds": "/console/refunds", "gateways": "/console/gateways", "processes": "/console/processes",
        "timers": "/console/timers", "doctor": "/console/doctor", "audit": "/console/audit", "actions": "/console/actions",
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/console");
    let narrow = std::env::temp_dir().join("overdue-console-narrow");
    println!("narrow pictures are in {}", narrow.display());
    let more = [
        ("CONSOLE_SHOTS", shots.to_string()),
        ("CONSOLE_PICTURES", folder.to_str().unwrap().to_owned()),
        ("CONSOLE_PICTURES_NARROW", narrow.to_str().unwrap().to_owned()),
    ];
    browse(&stage, ACTS, &["pictures"], &more).await;
    stage.end().await;
    world.close().await;
}
