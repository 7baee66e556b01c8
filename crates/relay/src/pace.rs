use std::time::Duration;

/// How long a relay waits between two looks at the outbox. It asks, and is not told: a notification at each commit takes a lock
/// that all commits of the PostgreSQL cluster share, and every transaction of the shop that arms an order would pay for it.
#[derive(Debug)]
pub(crate) struct Pace {
    wait: Duration,
}

impl Pace {
    /// While there is work. Rows gather meanwhile: each pass costs the database the same, however few it finds.
    pub(crate) const BUSY: Duration = Duration::from_millis(100);

    /// While there is none.
    pub(crate) const IDLE: Duration = Duration::from_millis(250);

    pub(crate) fn new() -> Self {
        Self { wait: Self::BUSY }
    }

    /// The wait after a pass that found something, or nothing.
    pub(crate) fn after(&mut self, found: bool) -> Duration {
        self.wait = if found { Self::BUSY } else { (self.wait * 3 / 2).min(Self::IDLE) };
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_slows_down_while_there_is_nothing_and_is_fast_again_with_the_first_row() {
        let mut pace = Pace::new();
        let waits: Vec<u128> = (0..6).map(|_| pace.after(false).as_millis()).collect();
        assert_eq!(waits, [150, 225, 250, 250, 250, 250]);
        assert_eq!(pace.after(true), Pace::BUSY);
    }
}
