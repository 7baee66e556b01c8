use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets through each reason for a warning now and then: some come again and again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throttle {
    warned_at: Arc<Mutex<HashMap<String, Instant>>>,
}

/// How often the same reason is let through.
const EVERY: Duration = Duration::from_secs(10);

/// How many reasons are let through in that time. Reasons that differ for each order are not worth a line each.
const REASONS_MAX: usize = 5;

impl Throttle {
    /// Whether a warning for this reason is to be logged.
    pub(crate) fn lets_through(&self, why: &str) -> bool {
        let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        warned_at.retain(|_, at| at.elapsed() < EVERY);
        let may = warned_at.len() < REASONS_MAX && !warned_at.contains_key(why);
        if may {
            warned_at.insert(why.to_owned(), Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_through_once_and_not_all_reasons_do() {
        let throttle = Throttle::default();
        assert!(throttle.lets_through("0") && !throttle.lets_through("0"));
        let through = (1..100).filter(|number: &i32| throttle.lets_through(&number.to_string())).count();
        assert_eq!(through, REASONS_MAX - 1);
    }
}
