//! One file for each subcommand.

pub(crate) mod audit;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod migrate;
pub(crate) mod order;
pub(crate) mod parked;
pub(crate) mod publish;
pub(crate) mod refunds;
pub(crate) mod run;
pub(crate) mod stock;
pub(crate) mod topology;

use std::io::Write;

/// Prints a line to standard output. Whoever reads it may hang up (`| head`), which is no error.
pub(crate) fn print(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
