//! When a delivery that failed is tried again.

use std::time::Duration;

use retry::varied_by;

/// The delays of Standard Webhooks 1.0: ten attempts within 75 hours
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#deliverability-and-reliability>).
const DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// How often an event is sent at the most.
pub const ATTEMPTS_MAX: u32 = DELAYS.len() as u32 + 1;

/// By how much delays vary, so that what failed together does not come back together.
const VARIATION: f64 = 0.2;

/// The longest that a receiver may put an event off.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// How long to wait after this many attempts that failed, the last of which the receiver may have answered with a wish of its own.
/// `None`: there is no further attempt.
#[must_use]
pub fn delay_after(attempts: u32, retry_after: Option<Duration>) -> Option<Duration> {
    let index = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let delay = varied_by(*DELAYS.get(index)?, VARIATION);
    Some(delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_attempts_in_three_days_and_a_receiver_may_ask_for_more_time() {
        let delays: Vec<Duration> = (1..ATTEMPTS_MAX).map(|attempts| delay_after(attempts, None).unwrap()).collect();
        for (delay, nominal) in delays.iter().zip(DELAYS) {
            assert!(*delay >= nominal.mul_f64(0.79) && *delay <= nominal.mul_f64(1.21), "{delay:?} for {nominal:?}");
        }
        assert_eq!((delay_after(ATTEMPTS_MAX, None), delay_after(0, None)), (None, None));
        assert_eq!(delay_after(1, Some(Duration::from_mins(1))), Some(Duration::from_mins(1)));
        assert_eq!(delay_after(1, Some(Duration::from_hours(999))), Some(RETRY_AFTER_MAX));
        assert!(delay_after(9, Some(Duration::from_secs(1))).unwrap() > Duration::from_hours(19));
    }
}
