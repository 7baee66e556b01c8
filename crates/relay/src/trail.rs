//! That orders were sent, and events announced, for those who look. In a burst some of it is left out: nothing waits for it, and nothing
//! depends on it.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sqlx::PgConnection;

/// Lets so much through a second, and so much at once.
pub(crate) struct TrailLimit(DefaultDirectRateLimiter);

/// A subject, and what is told of it.
pub(crate) type Told = (String, String);

const PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
const AT_ONCE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

impl Default for TrailLimit {
    fn default() -> Self {
        Self(RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(AT_ONCE)))
    }
}

impl TrailLimit {
    /// Whether so much is to be written down: all of it, or none.
    pub(crate) fn lets_through(&self, count: usize) -> bool {
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
        count.is_some_and(|count| matches!(self.0.check_n(count), Ok(Ok(()))))
    }
}

/// Writes it down as a step of this name.
pub(crate) async fn write(connection: &mut PgConnection, step: &str, told: &[Told]) -> Result<(), sqlx::Error> {
    if told.is_empty() {
        return Ok(());
    }
    let (subjects, details): (Vec<&str>, Vec<&str>) =
        told.iter().map(|(subject, how)| (subject.as_str(), how.as_str())).unzip();
    let insert = "insert into order_trail (subject, step, actor, detail)
                  select subject, $1, 'relay', detail from unnest($2::text[], $3::text[]) as told (subject, detail)";
    sqlx::query(insert).bind(step).bind(subjects).bind(details).execute(connection).await?;
    Ok(())
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
}
