use broker::Incoming;

/// How far a pipeline trusts the head of its queue.
///
/// A message that breaks the session, or the process, comes again each time, until the broker parks it at its delivery limit. Each
/// message that was sent ahead along with it counts as delivered, too. So a session that follows a break is careful, and takes one
/// message at a time. So is one whose messages were delivered several times before: it cannot know of breaks that were the end of
/// its process. Once a careful session has acked some messages that are above suspicion, it ends, and the next takes all it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trust {
    /// Batches above suspicion that a careful session has acked; `None`: the session is not careful.
    careful: Option<u32>,
}

/// After so many batches a careful session has shown that the head of the queue can be read.
const TRUSTED_AFTER_BATCHES: u32 = 5;

/// A message that has come back so often may be the reason. Few enough that the others are far from their delivery limit.
const SUSPECT_DELIVERIES: u32 = 3;

/// Whether one of these messages may be the reason that sessions end.
pub(crate) fn are_suspect(messages: &[Incoming]) -> bool {
    messages.iter().any(|message| message.deliveries() >= SUSPECT_DELIVERIES)
}

impl Trust {
    /// How many messages the broker may send ahead, where it may send `prefetch_max` to a session that is trusted.
    pub(crate) fn prefetch(self, prefetch_max: u16) -> u16 {
        if self.careful.is_some() { 1 } else { prefetch_max }
    }

    /// Whether the session takes one message at a time.
    pub(crate) fn is_careful(self) -> bool {
        self.careful.is_some()
    }

    /// A batch was acked. Says whether the session has done its part, and the next may take more.
    pub(crate) fn acked(&mut self, suspect: bool) -> bool {
        let Some(batches) = &mut self.careful else { return false };
        *batches = if suspect { 0 } else { *batches + 1 };
        let earned = *batches >= TRUSTED_AFTER_BATCHES;
        if earned {
            self.careful = None;
        }
        earned
    }

    /// The session broke, or may.
    pub(crate) fn lost(&mut self) {
        self.careful = Some(0);
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
    fn trust_is_lost_by_a_break_and_earned_by_batches() {
        let mut trust = Trust::default();
        assert_eq!((trust.prefetch(2048), trust.acked(false)), (2048, false), "there is nothing to earn");
        trust.lost();
        assert_eq!(trust.prefetch(2048), 1);
        assert!((1..TRUSTED_AFTER_BATCHES).all(|_| !trust.acked(false)), "not yet");
        trust.begins();
        assert!((1..TRUSTED_AFTER_BATCHES).all(|_| !trust.acked(false)), "a session earns it alone");
        assert!(!trust.acked(true), "what came back again and again earns nothing");
        assert!((1..TRUSTED_AFTER_BATCHES).all(|_| !trust.acked(false)));
        assert!(trust.acked(false));
        assert_eq!(trust.prefetch(2048), 2048);
    }
}
