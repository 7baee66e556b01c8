use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::settings::{LogFormat, LogSettings};

/// Logs go to standard error, so that standard output is what was asked for. `quiet`: warnings only, unless a
/// filter was given.
pub(crate) fn init(settings: &LogSettings, quiet: bool) {
    let wanted = if quiet && settings.filter == "info" { "warn" } else { settings.filter.as_str() };
    // A narrower directive for a module of lapin would win over ours.
    let wanted: Vec<&str> =
        wanted.split(',').filter(|directive| !directive.trim_start().starts_with("lapin")).collect();
    let mut filter = EnvFilter::builder().parse_lossy(wanted.join(","));
    // lapin logs whole messages at WARN, bodies and all, and at ERROR what it returns to us anyway. sqlx logs
    // statements.
    for directive in ["lapin=off", "sqlx=warn"] {
        if let Ok(directive) = directive.parse::<Directive>() {
            filter = filter.add_directive(directive);
        }
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .log_internal_errors(false)
        .with_ansi(stderr().is_terminal());
    match settings.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
