//! Standard output and standard error. A reader that has hung up (`| head`) is no reason to break.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

use comfy_table::Table;
use serde::Serialize;

/// Prints a line to standard output.
pub(crate) fn print(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// A text of others, with what a terminal would take for a command, or would show in another place, escaped.
pub(crate) fn plain(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let escaped = |c: char| if c.is_control() || hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Prints JSON to standard output, with line breaks.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), anyhow::Error> {
    print(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a list to standard output: as JSON, as a table, or what is to be said where there is nothing in it.
pub(crate) fn print_list<T: Serialize>(
    list: &[T],
    json: bool,
    nothing: &str,
    table: impl FnOnce(&[T]) -> Table,
) -> Result<(), anyhow::Error> {
    if json {
        return print_json(&list);
    }
    if list.is_empty() {
        print(nothing);
    } else {
        print(table(list));
    }
    Ok(())
}

/// Prints a line to standard error.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
