//! The decision when a timer falls due.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

use crate::Deadline;

/// Where a timer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerState {
    /// It will fire.
    Armed,
    /// It has fired.
    Fired,
    /// It was cancelled.
    Cancelled,
}

/// A state that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no state of a timer: armed, fired or cancelled")]
pub struct BadTimerState(pub String);

/// A timer as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerFacts {
    /// Where it stands.
    pub state: TimerState,
    /// When it fires.
    pub due: Deadline,
    /// Rises each time that it is armed anew, or moved.
    pub revision: i64,
}

/// What is to be done about a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerDecision {
    /// It is due: fire it, unless it has changed meanwhile.
    Fire,
    /// It has fired, or was cancelled.
    Nothing,
    /// It is due later: look again then.
    Wait(Deadline),
    /// There is no such timer, or not yet.
    Unknown,
}

/// A time at which no timer can be due.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a timer cannot be due at {0}: give a time between the years 2000 and 9000; one in the past fires at once")]
pub struct BadTimerDue(Deadline);

/// Whether a timer can be due then.
///
/// # Errors
/// [`BadTimerDue`].
pub fn check_timer_due(due: Deadline) -> Result<(), BadTimerDue> {
    if (2000..9000).contains(&due.instant().year()) { Ok(()) } else { Err(BadTimerDue(due)) }
}

/// Decides by what the database says, `now` by its clock. What a message says has no part in it.
#[must_use]
pub fn decide_timer(facts: Option<&TimerFacts>, now: OffsetDateTime) -> TimerDecision {
    match facts {
        None => TimerDecision::Unknown,
        Some(facts) if facts.state != TimerState::Armed => TimerDecision::Nothing,
        Some(facts) if !facts.due.is_past(now) => TimerDecision::Wait(facts.due),
        Some(_) => TimerDecision::Fire,
    }
}

impl TimerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Armed, Self::Fired, Self::Cancelled];

    /// Its name in the database and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::Fired => "fired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for TimerState {
    type Err = BadTimerState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| BadTimerState(text.to_owned()))
    }
}

impl fmt::Display for TimerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_is_armed_and_due_fires() {
        let due: Deadline = "2026-11-22T08:30:00Z".parse().unwrap();
        let (at, tick) = (due.instant(), Duration::from_micros(1));
        let facts = |state| TimerFacts { state, due, revision: 1 };
        assert_eq!(decide_timer(None, at), TimerDecision::Unknown);
        let armed = facts(TimerState::Armed);
        assert_eq!(decide_timer(Some(&armed), at - tick), TimerDecision::Wait(due));
        assert_eq!(decide_timer(Some(&armed), at), TimerDecision::Fire);
        for state in [TimerState::Fired, TimerState::Cancelled] {
            assert_eq!(decide_timer(Some(&facts(state)), at + tick), TimerDecision::Nothing);
        }
    }
}
