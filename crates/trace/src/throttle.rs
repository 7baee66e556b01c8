use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets through each reason for a warning now and then: some come again and again. Copies count together.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    warned: Arc<Mutex<HashMap<String, Warned>>>,
}

/// The last time that a reason came through, and how often it has come since.
#[derive(Debug)]
struct Warned {
    at: Instant,
    more: u64,
}

/// How often the same reason is let through.
const EVERY: Duration = Duration::from_secs(10);

/// How many reasons are let through in that time. Reasons that differ for each order are not worth a line each.
const REASONS_MAX: usize = 5;

/// For how long it is remembered how often a reason was held back.
const REMEMBERED: Duration = Duration::from_mins(10);

impl Throttle {
    /// Whether a warning for this reason is to be logged: then, how often it was held back since the last time.
    #[must_use]
    pub fn lets_through(&self, why: &str) -> Option<u64> {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.retain(|_, warned| warned.at.elapsed() < REMEMBERED);
        let recent = warned.values().filter(|warned| warned.at.elapsed() < EVERY).count();
        match warned.get_mut(why) {
            Some(known) if known.at.elapsed() < EVERY || recent >= REASONS_MAX => {
                known.more += 1;
                None
            }
            None if recent >= REASONS_MAX => None,
            known => {
                let more = known.map_or(0, |known| known.more);
                warned.insert(why.to_owned(), Warned { at: Instant::now(), more: 0 });
                Some(more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_through_once_and_not_all_reasons_do() {
        let throttle = Throttle::default();
        assert_eq!((throttle.lets_through("0"), throttle.lets_through("0")), (Some(0), None));
        for number in 1..REASONS_MAX {
            assert_eq!(throttle.lets_through(&number.to_string()), Some(0));
        }
        assert_eq!(throttle.lets_through("one more"), None);
    }

    #[test]
    fn what_was_held_back_is_counted() {
        let throttle = Throttle::default();
        for _ in 0..4 {
            let _ = throttle.lets_through("again");
        }
        throttle.warned.lock().unwrap().get_mut("again").unwrap().at = Instant::now() - EVERY;
        assert_eq!(throttle.lets_through("again"), Some(3));
    }
}
