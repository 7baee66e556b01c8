use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

/// How far the clock of a gateway may be from ours. WeChat Pay's own SDKs refuse five minutes.
pub(crate) const SKEW_MAX: Duration = Duration::from_secs(300);

/// The most nonces that are remembered. Beyond, the oldest are forgotten: an answer that old could be replayed
/// within [`SKEW_MAX`], and would be about a trade in a state that it was truly in.
const NONCES_MAX: usize = 262_144;

/// Remembers what was signed lately, so that an answer counts once.
#[derive(Debug, Default)]
pub(crate) struct ReplayGuard {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    nonces: HashSet<String>,
    by_age: VecDeque<(OffsetDateTime, String)>,
}

impl ReplayGuard {
    /// Whether this nonce is seen for the first time.
    pub(crate) fn is_new(&self, nonce: &str, now: OffsetDateTime) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer is refused by its age once it is older than twice the skew.
        while seen.by_age.front().is_some_and(|(at, _)| now - *at > 2 * SKEW_MAX) || seen.by_age.len() > NONCES_MAX {
            if let Some((_, oldest)) = seen.by_age.pop_front() {
                seen.nonces.remove(&oldest);
            }
        }
        if !seen.nonces.insert(nonce.to_owned()) {
            return false;
        }
        seen.by_age.push_back((now, nonce.to_owned()));
        true
    }
}

/// Whether a signature of this moment (seconds since 1970, as a text) is of now: not stale, and not from the future.
pub(crate) fn is_fresh(timestamp: &str, now: OffsetDateTime) -> bool {
    let signed_at = timestamp.parse::<i64>().ok();
    signed_at.is_some_and(|at| now.unix_timestamp().abs_diff(at) < SKEW_MAX.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_once_until_it_is_too_old_to_be_replayed() {
        let guard = ReplayGuard::default();
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(guard.is_new("a", now) && guard.is_new("b", now));
        assert!(!guard.is_new("a", now + SKEW_MAX));
        assert!(guard.is_new("c", now + 3 * SKEW_MAX));
        assert_eq!(guard.seen.lock().unwrap().nonces.len(), 1);
    }

    #[test]
    fn five_minutes_are_too_far_apart() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(is_fresh("1000299", now) && is_fresh("999701", now));
        for stale in ["1000300", "999700", "-1", "", "soon", "99999999999999999999"] {
            assert!(!is_fresh(stale, now), "{stale}");
        }
    }
}
