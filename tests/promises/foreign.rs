//! A service in another language publishes order IDs and needs to know no more than the exchange and the key.

use std::path::Path;

use tests::World;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_closes_orders_with_a_bare_id() {
    let world = World::new().await;
    world.stock("tea", 5).await;
    let orders = [world.overdue_order("tea").await, world.overdue_order("tea").await];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/publish.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["--lane", "1s", &world.amqp_url, orders[0].id.as_str(), orders[1].id.as_str()])
        .output()
        .await
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let worker = world.worker();
    for order in &orders {
        world.becomes(&order.id, "closed").await;
    }
    assert_eq!(world.shelf("tea").await, (5, 0));
    worker.stop().await;
    world.close().await;
}
