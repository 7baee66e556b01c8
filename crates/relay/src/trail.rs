//! That orders were sent, and events announced, for those who look. In a burst some of it is left out: nothing waits
//! for it, and nothing depends on it.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sqlx::{Connection as _, PgConnection};

/// Lets so much through a second, and so much at once; and nothing for a while after it could not be written down.
/// Copies are the same.
#[derive(Clone)]
pub(crate) struct TrailLimit(Arc<Limit>);

struct Limit {
    rate: DefaultDirectRateLimiter,
    paused_until: Mutex<Option<Instant>>,
}

/// A subject, and what is told of it.
pub(crate) type Told = (String, String);

const PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();
const AT_ONCE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// How long nothing is written down after that failed: timeouts do not wait for a table that somebody has locked.
const PAUSE: Duration = Duration::from_secs(30);

impl Default for TrailLimit {
    fn default() -> Self {
        let rate = RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(AT_ONCE));
        Self(Arc::new(Limit { rate, paused_until: Mutex::default() }))
    }
}

impl TrailLimit {
    /// Whether so much is to be written down: all of it, or none.
    pub(crate) fn lets_through(&self, count: usize) -> bool {
        if self.paused_until().is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
        count.is_some_and(|count| matches!(self.0.rate.check_n(count), Ok(Ok(()))))
    }

    /// It could not be written down.
    pub(crate) fn pause(&self) {
        *self.paused_until() = Some(Instant::now() + PAUSE);
    }

    fn paused_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes it down as a step of this name. It waits for no lock, or hardly.
pub(crate) async fn write(connection: &mut PgConnection, step: &str, told: &[Told]) -> Result<(), sqlx::Error> {
    if told.is_empty() {
        return Ok(());
    }
    let (subjects, details): (Vec<&str>, Vec<&str>) =
        told.iter().map(|(subject, how)| (subject.as_str(), how.as_str())).unzip();
    let insert = "insert into order_trail (subject, step, actor, detail)
                  select subject, $1, 'relay', detail from unnest($2::text[], $3::text[]) as told (subject, detail)";
    let mut transaction = connection.begin().await?;
    sqlx::query("set local lock_timeout = '100ms'").execute(&mut *transaction).await?;
    sqlx::query(insert).bind(step).bind(subjects).bind(details).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_room_for_is_left_out_as_a_whole() {
        let limit = TrailLimit::default();
        let let_through = [0, 900, 200, 8_192, 90].map(|count| limit.lets_through(count));
        assert_eq!(let_through, [false, true, false, false, true]);
    }

    #[test]
    fn after_a_failure_nothing_is_told_for_a_while_by_any_copy() {
        let limit = TrailLimit::default();
        limit.clone().pause();
        assert!(!limit.lets_through(1));
        *limit.paused_until() = Some(Instant::now());
        assert!(limit.lets_through(1));
    }
}
