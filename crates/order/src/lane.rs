use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A queue in which messages wait for its TTL, or for a shorter expiration of their own. Its name is its TTL: `30s`,
/// `15m`, `1d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    ttl_ms: u64,
}

/// A text, or a TTL, that is no lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLane {
    /// A text is not a whole number of `ms`, `s`, `m`, `h` or `d`.
    #[error("{0:?} is not a lane: give a whole number and a unit (ms, s, m, h, d), such as 30m")]
    NotALane(String),
    /// A TTL of zero, or one beyond [`Lane::TTL_MAX`].
    #[error("a lane's TTL must lie between 1 ms and 365 days, {0} does not")]
    OutOfRange(String),
}

/// Whole milliseconds, rounded up: a message that left its lane before the deadline would have to wait once more.
pub(crate) fn round_up_to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Lane {
    /// The longest TTL that a lane may have: a year, well within RabbitMQ's own limit.
    pub const TTL_MAX: Duration = Duration::from_hours(365 * 24);

    /// The lane with this TTL.
    ///
    /// # Errors
    /// [`BadLane::OutOfRange`] for less than 1 ms or more than [`Lane::TTL_MAX`].
    pub fn new(ttl: Duration) -> Result<Self, BadLane> {
        if ttl < Duration::from_millis(1) || ttl > Self::TTL_MAX {
            return Err(BadLane::OutOfRange(format!("{ttl:?}")));
        }
        Ok(Self { ttl_ms: round_up_to_ms(ttl) })
    }

    /// How long a message waits in the lane at most.
    #[must_use]
    pub fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// [`Lane::ttl`] in milliseconds, the unit of `x-message-ttl`.
    #[must_use]
    pub fn ttl_ms(self) -> u64 {
        self.ttl_ms
    }
}

impl FromStr for Lane {
    type Err = BadLane;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadLane::NotALane(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let &(_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let ttl_ms = number.checked_mul(unit_ms).ok_or_else(|| BadLane::OutOfRange(text.to_owned()))?;
        Self::new(Duration::from_millis(ttl_ms)).map_err(|_| BadLane::OutOfRange(text.to_owned()))
    }
}

impl fmt::Display for Lane {
    /// The TTL in the largest unit that divides it: 90 s is `90s`, 120 s is `2m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit_ms) =
            UNITS.into_iter().find(|(_, unit_ms)| self.ttl_ms.is_multiple_of(*unit_ms)).unwrap_or(("ms", 1));
        write!(f, "{}{name}", self.ttl_ms / unit_ms)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(text: &str) -> Lane {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_ttls_in_the_largest_unit() {
        for (text, name, ms) in
            [("90s", "90s", 90_000), ("120s", "2m", 120_000), ("24h", "1d", 86_400_000), ("1500ms", "1500ms", 1_500)]
        {
            assert_eq!((lane(text).to_string().as_str(), lane(text).ttl_ms()), (name, ms));
        }
        for text in ["", "s", "5", "5 s", "-5s", "1.5s", "5w"] {
            assert!(matches!(text.parse::<Lane>(), Err(BadLane::NotALane(_))), "{text}");
        }
        for text in ["0s", "366d", "18446744073709551615d"] {
            assert!(matches!(text.parse::<Lane>(), Err(BadLane::OutOfRange(_))), "{text}");
        }
    }
}
