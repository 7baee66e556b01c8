/// How far a pipeline trusts the head of its queue.
///
/// A message that breaks the session itself (one that the AMQP library cannot read) comes again each time, until the broker
/// parks it at its delivery limit. Each message that was sent ahead along with it counts as delivered, too. So after a break
/// the next session is careful and takes one message at a time. Once it has acked some, it ends, and the next takes all it
/// may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Batches that a careful session has acked; `None`: the session is not careful.
    careful: Option<u32>,
}

/// After so many batches a careful session has shown that the head of the queue can be read.
const TRUSTED_AFTER_BATCHES: u32 = 5;

impl Trust {
    /// None yet.
    pub(crate) fn none() -> Self {
        Self { careful: Some(0) }
    }

    /// How many messages the broker may send ahead, where it may send `prefetch_max` to a session that is trusted.
    pub(crate) fn prefetch(self, prefetch_max: u16) -> u16 {
        if self.careful.is_some() { 1 } else { prefetch_max }
    }

    /// A batch was acked. Says whether the session has done its part, and the next may take more.
    pub(crate) fn acked(&mut self) -> bool {
        let Some(batches) = &mut self.careful else { return false };
        *batches += 1;
        let earned = *batches >= TRUSTED_AFTER_BATCHES;
        if earned {
            self.careful = None;
        }
        earned
    }

    /// The session broke.
    pub(crate) fn broke(&mut self) {
        *self = Self::none();
    }

    /// A session begins anew, without having earned anything or broken.
    pub(crate) fn begins(&mut self) {
        if let Some(batches) = &mut self.careful {
            *batches = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_by_batches_and_lost_by_a_break() {
        let mut trust = Trust::none();
        assert_eq!(trust.prefetch(2048), 1);
        assert!((1..TRUSTED_AFTER_BATCHES).all(|_| !trust.acked()), "not yet");
        trust.begins();
        assert!((1..TRUSTED_AFTER_BATCHES).all(|_| !trust.acked()), "a session earns it alone");
        assert!(trust.acked());
        assert_eq!(trust.prefetch(2048), 2048);
        assert!(!trust.acked(), "there is nothing more to earn");
        trust.begins();
        assert_eq!(trust.prefetch(2048), 2048);
        trust.broke();
        assert_eq!(trust.prefetch(2048), 1);
    }
}
