//! The password file (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::host::{Host, HostName};

/// The password for this host, database and user: from the file that the URL or `PGPASSFILE` names, else from
/// `~/.pgpass` if there is one.
pub(crate) fn password_for(
    named: Option<&str>,
    variable: &impl Fn(&str) -> Option<String>,
    host: &Host,
    database: &str,
    user: &str,
) -> Result<Option<SecretString>, String> {
    let file = match named {
        Some(file) => PathBuf::from(file),
        None => match variable("HOME").map(|home| Path::new(&home).join(".pgpass")).filter(|file| file.is_file()) {
            Some(file) => file,
            None => return Ok(None),
        },
    };
    let metadata = std::fs::metadata(&file).map_err(|error| format!("passfile {}: {error}", file.display()))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(format!("passfile {}: others may read it; run `chmod 600`", file.display()));
    }
    let text = std::fs::read_to_string(&file).map_err(|error| format!("passfile {}: {error}", file.display()))?;
    let name = match &host.name {
        HostName::Tcp(name) => name.clone(),
        // As in libpq, which knows the default directory by another name.
        HostName::Unix(directory) if directory == Path::new("/var/run/postgresql") => "localhost".to_owned(),
        HostName::Unix(directory) => directory.display().to_string(),
    };
    let port = host.port.to_string();
    let found = text.lines().find_map(|line| password_of_line(line, [&name, &port, database, user]));
    Ok(found.map(Into::into))
}

/// The password of a line, if its four fields fit these.
fn password_of_line(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let more = fields.len() <= wanted.len();
        let last = fields.last_mut()?;
        match character {
            '\\' => last.extend(characters.next()),
            ':' if more => fields.push(String::new()),
            other => last.push(other),
        }
    }
    let password = (fields.len() > wanted.len()).then(|| fields.pop()).flatten()?;
    let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    fits.then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_by_its_four_fields() {
        let wanted = ["db", "5432", "shop", "u"];
        assert_eq!(password_of_line("db:5432:shop:u:secret", wanted).as_deref(), Some("secret"));
        assert_eq!(password_of_line("*:*:shop:*:p\\:w\\\\d:x", wanted).as_deref(), Some("p:w\\d:x"));
        assert_eq!(password_of_line("::1:5432:shop:u:secret", wanted), None);
        assert_eq!(password_of_line("\\:\\:1:*:*:*:secret", ["::1", "1", "d", "u"]).as_deref(), Some("secret"));
        for line in ["", "# db:5432:shop:u:secret", "db:5432:shop:u", "db:5433:shop:u:secret"] {
            assert_eq!(password_of_line(line, wanted), None, "{line}");
        }
    }
}
