use std::time::Duration;

/// Waits until `condition` holds; fails with `what` after a minute.
///
/// # Panics
/// After a minute.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually_within(Duration::from_secs(60), what, condition).await;
}

/// Waits until `condition` holds; fails with `what` after `limit`.
///
/// # Panics
/// After the limit.
pub async fn eventually_within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + limit;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
