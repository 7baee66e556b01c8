use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a test waits for an event, or for the next sign of progress.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a test looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; fails with `what` after a minute.
///
/// # Panics
/// After a minute.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until none is left; fails with `what` when a minute passes in which their number does not shrink. A slow machine
/// takes longer, and that is no failure.
///
/// # Panics
/// After a minute without progress.
pub async fn until_none_is_left(what: &str, mut left: impl AsyncFnMut() -> u64) {
    let (mut least, mut deadline) = (u64::MAX, Instant::now() + LIMIT);
    loop {
        let now = left().await;
        if now == 0 {
            return;
        }
        if now < least {
            (least, deadline) = (now, Instant::now() + LIMIT);
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}: {now} are left");
        sleep(LOOK_EVERY).await;
    }
}
