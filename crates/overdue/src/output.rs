//! Standard output and standard error. A reader that has hung up (`| head`) is no reason to break.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

use serde::Serialize;

/// Prints a line to standard output.
pub(crate) fn print(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Prints JSON to standard output, with line breaks.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), anyhow::Error> {
    print(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line to standard error.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
