use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use crate::failure::Failure;
use crate::output::print;

/// The fewest characters of a password.
const CHARACTERS_MIN: usize = 8;

/// Reads a password from standard input, and prints its hash for the file of users.
pub(crate) fn run() -> Result<(), Failure> {
    if stdin().is_terminal() {
        let _ = write!(stderr(), "Password (it is shown as you type; to hide it, pipe it in): ");
    }
    let mut password = String::new();
    stdin().lock().read_line(&mut password).map_err(|error| anyhow::anyhow!("cannot read the password: {error}"))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.chars().count() < CHARACTERS_MIN {
        return Err(Failure::settings(format!("a password has {CHARACTERS_MIN} characters or more")));
    }
    let hash = console::hash_password(password);
    print(hash.map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?);
    Ok(())
}
