use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// The instant at which an unpaid order falls due: absolute, in UTC, whole microseconds as PostgreSQL keeps
/// them. Retries, moves between lanes and restarts do not shift it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(OffsetDateTime);

/// A text that is no instant in RFC 3339 form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an instant in RFC 3339 form, such as 2026-11-22T08:30:00Z")]
pub struct BadDeadline(String);

impl Deadline {
    /// The deadline at `instant`, cut to whole microseconds.
    #[must_use]
    pub fn at(instant: OffsetDateTime) -> Self {
        // At the edges of the calendar there may be no such instant in UTC; then it stays as it is.
        let utc = instant.checked_to_offset(UtcOffset::UTC).unwrap_or(instant);
        let nanosecond = utc.nanosecond() / 1_000 * 1_000;
        Self(utc.replace_nanosecond(nanosecond).unwrap_or(utc))
    }

    /// The instant itself.
    #[must_use]
    pub fn instant(self) -> OffsetDateTime {
        self.0
    }

    /// How long until the deadline; zero once `now` has reached it.
    #[must_use]
    pub fn remaining(self, now: OffsetDateTime) -> Duration {
        Duration::try_from(self.0 - now).unwrap_or(Duration::ZERO)
    }

    /// Whether the deadline has been reached.
    #[must_use]
    pub fn is_past(self, now: OffsetDateTime) -> bool {
        now >= self.0
    }
}

impl FromStr for Deadline {
    type Err = BadDeadline;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self::at).map_err(|_| BadDeadline(text.to_owned()))
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years outside 0 to 9999 have no RFC 3339 form; `time` writes them in its own.
        match self.0.format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_ends_at_zero() {
        let deadline: Deadline = "2026-11-22T08:30:00.5Z".parse().unwrap();
        let now = deadline.instant();
        assert_eq!(deadline.remaining(now - Duration::from_millis(1500)), Duration::from_millis(1500));
        assert_eq!(deadline.remaining(now), Duration::ZERO);
        assert_eq!(deadline.remaining(now + Duration::from_hours(1)), Duration::ZERO);
        assert!(deadline.is_past(now));
        assert!(!deadline.is_past(now - Duration::from_micros(1)));
    }

    #[test]
    fn another_offset_is_the_same_instant_and_nanoseconds_are_cut() {
        let a: Deadline = "2026-11-22T09:30:00.123456789+01:00".parse().unwrap();
        assert_eq!(a.to_string(), "2026-11-22T08:30:00.123456Z");
        assert!("22.11.2026".parse::<Deadline>().is_err());
        // No year 10000 in UTC: no reason to panic.
        assert!("9999-12-31T23:59:59-23:59".parse::<Deadline>().is_ok());
    }
}
