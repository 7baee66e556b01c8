use std::collections::BTreeSet;

use clap::Args;
use order::{TimerId, check_kind};
use worker::SweepSettings;

use super::parse::{Human, positive};
use crate::failure::Failure;

/// What is known of timers.
#[derive(Debug, Clone, Args)]
pub(crate) struct TimerSettings {
    #[command(flatten)]
    pub(crate) kinds: TimerKinds,
    /// Sweep: how long timers are kept that fired or were cancelled
    #[arg(long, env = "OVERDUE_KEEP_TIMERS", default_value_t = Human(SweepSettings::default().keep_timers), value_parser = positive, value_name = "DURATION")]
    pub(crate) keep_timers: Human,
}

impl Default for TimerSettings {
    /// Timers of every kind.
    fn default() -> Self {
        let kinds = TimerKinds { timer_kinds: Vec::new() };
        Self { kinds, keep_timers: Human(SweepSettings::default().keep_timers) }
    }
}

/// Which kinds of timers there are.
#[derive(Debug, Clone, Args)]
pub(crate) struct TimerKinds {
    /// The kinds of timers that are expected, where not all: others are refused, and parked when they are due. The same for every
    /// process
    #[arg(long, env = "OVERDUE_TIMER_KINDS", value_delimiter = ',', value_parser = kind, value_name = "KIND,...")]
    timer_kinds: Vec<String>,
}

impl TimerKinds {
    /// `None`: all.
    pub(crate) fn expected(&self) -> Option<BTreeSet<String>> {
        (!self.timer_kinds.is_empty()).then(|| self.timer_kinds.iter().cloned().collect())
    }

    /// Fails for a timer that is not expected.
    pub(crate) fn check(&self, id: &TimerId) -> Result<(), Failure> {
        match self.expected() {
            Some(kinds) if !kinds.contains(id.kind()) => Err(Failure::settings(format!(
                "timers of the kind {} are not expected: OVERDUE_TIMER_KINDS has {}",
                id.kind(),
                kinds.into_iter().collect::<Vec<_>>().join(", ")
            ))),
            _ => Ok(()),
        }
    }
}

fn kind(text: &str) -> Result<String, String> {
    check_kind(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}
