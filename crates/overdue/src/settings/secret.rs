use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::failure::Failure;

/// The value itself, or else the content of the file that holds it, without a line end at its end. `name` is the variable
/// of the value; the file has the same with `_FILE`.
pub(crate) fn value_or_file(
    name: &str,
    value: Option<&SecretString>,
    file: Option<&PathBuf>,
) -> Result<Option<SecretString>, Failure> {
    match (value, file) {
        (Some(_), Some(_)) => {
            Err(Failure::settings(format!("{name} and {name}_FILE are both given; give one of them")))
        }
        (Some(value), None) => Ok(Some(without_line_end(secrecy::ExposeSecret::expose_secret(value)))),
        (None, Some(file)) => read(name, file).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(name: &str, file: &Path) -> Result<SecretString, Failure> {
    let bad = |reason: String| Failure::settings(format!("{name}_FILE: cannot read {}: {reason}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    let value = without_line_end(&text);
    if secrecy::ExposeSecret::expose_secret(&value).is_empty() {
        return Err(bad("it is empty".to_owned()));
    }
    Ok(value)
}

/// An editor, or `echo`, adds a line end.
fn without_line_end(text: &str) -> SecretString {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text).into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn in_file(content: &[u8]) -> Result<String, String> {
        let file = std::env::temp_dir().join(format!("overdue-secret-{}-{}", std::process::id(), content.len()));
        std::fs::write(&file, content).unwrap();
        let value = value_or_file("OVERDUE_API_TOKEN", None, Some(&file));
        std::fs::remove_file(&file).unwrap();
        value.map(|value| value.unwrap().expose_secret().to_owned()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_value_comes_from_a_file_without_its_line_end() {
        assert_eq!(in_file(b"secret").unwrap(), "secret");
        assert_eq!(in_file(b"secret\n").unwrap(), "secret");
        assert_eq!(in_file(b"secret\r\n").unwrap(), "secret");
        assert_eq!(in_file(b"two\nlines \n").unwrap(), "two\nlines ", "one line end, and nothing else");
        assert!(in_file(b"\n").unwrap_err().contains("OVERDUE_API_TOKEN_FILE"));
        assert!(in_file(&[0xff; 30]).unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn a_value_and_a_file_contradict_each_other() {
        let both = value_or_file("OVERDUE_API_TOKEN", Some(&"secret".into()), Some(&"file".into()));
        assert!(both.unwrap_err().to_string().contains("OVERDUE_API_TOKEN_FILE"));
        let missing = value_or_file("OVERDUE_API_TOKEN", None, Some(&"/nowhere/file".into()));
        assert!(missing.unwrap_err().to_string().contains("/nowhere/file"));
    }
}
