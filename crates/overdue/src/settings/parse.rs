//! The command line and the environment, read together.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches};
use url::Url;

/// A duration as people write it: `30s`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Human(pub(crate) Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Human {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

pub(crate) fn duration(text: &str) -> Result<Human, String> {
    text.parse().map_err(|error: humantime::DurationError| error.to_string())
}

pub(crate) fn positive(text: &str) -> Result<Human, String> {
    let duration = duration(text)?;
    if duration.0 < Duration::from_millis(1) {
        Err("it must be a millisecond or longer".to_owned())
    } else {
        Ok(duration)
    }
}

pub(crate) fn up_to_a_day(text: &str) -> Result<Human, String> {
    let duration = duration(text)?;
    if duration.0 > Duration::from_hours(24) {
        Err("it must not be longer than a day".to_owned())
    } else {
        Ok(duration)
    }
}

pub(crate) fn positive_up_to_a_day(text: &str) -> Result<Human, String> {
    positive(text).and_then(|_| up_to_a_day(text))
}

/// Reads this program's command line. An empty variable is one that is not set. An error names the variable, where the value
/// came from one.
pub(crate) fn parsed<T: CommandFactory + FromArgMatches>() -> Parsed<T> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    parse(&arguments).unwrap_or_else(|error| error.exit())
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) settings: T,
    /// Flags that hold a secret. Every user of this machine can read them in the list of processes.
    pub(crate) exposed: Vec<String>,
}

fn parse<T: CommandFactory + FromArgMatches>(arguments: &[OsString]) -> Result<Parsed<T>, Error> {
    let mut command = without_empty_variables(T::command());
    // Arguments have their own spelling only then.
    command.build();
    let named = named_variables(&command, arguments);
    let matches = command.try_get_matches_from_mut(arguments);
    let parsed = matches.and_then(|matches| {
        let exposed = exposed(&command, &matches);
        T::from_arg_matches(&matches).map(|settings| Parsed { settings, exposed })
    });
    parsed.map_err(|error| with_variable(error, &named))
}

/// Arguments with values that are not shown in the help, and come from the command line. A URL is a secret if it has a
/// password.
fn exposed(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let is_secret = |value: &OsStr| match value.to_string_lossy().parse::<Url>() {
        Ok(url) if url.has_host() => url.password().is_some(),
        _ => true,
    };
    let is_exposed = |argument: &&Arg| {
        let id = argument.get_id().as_str();
        argument.is_hide_env_values_set()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches.get_raw(id).is_some_and(|mut values| values.any(is_secret))
    };
    let flag = |argument: &Arg| format!("--{}", argument.get_long().unwrap_or_default());
    let mut found: Vec<String> = command.get_arguments().filter(is_exposed).map(flag).collect();
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        found.extend(exposed(command, matches));
    }
    found
}

fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let is_empty = argument.get_env().is_some_and(|name| value_of(name).is_some_and(|value| value.is_empty()));
        if is_empty { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(without_empty_variables)
}

/// Arguments whose values come from variables, in clap's own spelling.
fn named_variables(command: &Command, arguments: &[OsString]) -> Vec<(String, String)> {
    let is_given = |argument: &Arg| {
        argument.get_long().is_some_and(|long| {
            let flag = format!("--{long}");
            let given = |text: &OsString| {
                let text = text.to_string_lossy();
                text == flag || text.starts_with(&format!("{flag}="))
            };
            arguments.iter().any(given)
        })
    };
    let from_variable = |argument: &Arg| {
        let name = argument.get_env().filter(|name| value_of(name).is_some())?;
        (!is_given(argument)).then(|| (argument.to_string(), name.to_string_lossy().into_owned()))
    };
    let mut named: Vec<(String, String)> = command.get_arguments().filter_map(from_variable).collect();
    named.extend(command.get_subcommands().flat_map(|command| named_variables(command, arguments)));
    named
}

fn with_variable(mut error: Error, named: &[(String, String)]) -> Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return error };
    if let Some((_, variable)) = named.iter().find(|(spelling, _)| spelling == argument) {
        let tip: StyledStr = format!("the value comes from the variable {variable}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn value_of(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

/// Variables of earlier versions that have no effect any more, and are set.
pub(crate) fn gone() -> Vec<&'static str> {
    GONE.into_iter().filter(|name| value_of(OsStr::new(name)).is_some_and(|value| !value.is_empty())).collect()
}

const GONE: [&str; 20] = [
    "OVERDUE_DATABASE_CONNECT_TIMEOUT",
    "OVERDUE_CONFIRM_TIMEOUT",
    "OVERDUE_REPORT_EVERY",
    "OVERDUE_BATCH_ORDERS_MAX",
    "OVERDUE_PREFETCH_MESSAGES",
    "OVERDUE_CLAIM_ORDERS_MAX",
    "OVERDUE_CLAIM_LEASE",
    "OVERDUE_UNKNOWN_ATTEMPTS_MAX",
    "OVERDUE_HOLD_MAX",
    "OVERDUE_OUTBOX_POLL",
    "OVERDUE_HTTP_GATEWAY_MIN_CLOSE_AGE",
    "OVERDUE_GATEWAY_ATTEMPTS_MAX",
    "OVERDUE_GATEWAY_BACK_OFF_INITIAL",
    "OVERDUE_GATEWAY_BACK_OFF_MAX",
    "OVERDUE_GATEWAY_HOLD",
    "OVERDUE_GATEWAY_USER_PAYING_WAIT",
    "OVERDUE_GATEWAY_NOT_FOUND_GAP",
    "OVERDUE_GATEWAY_PIPELINES",
    "OVERDUE_AUDIT_GRACE",
    "OVERDUE_AMQP_CONNECT_TIMEOUT",
];
