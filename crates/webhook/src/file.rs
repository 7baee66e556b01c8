//! The file of endpoints.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::endpoint::{BadEndpoint, Endpoint};
use crate::signing::{BadKey, Key};

/// Why a file of endpoints cannot be used. No message has a key in it.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file with a key of an endpoint cannot be read.
    #[error("endpoint {name}: cannot read the key in {path}: {reason}")]
    UnreadableKey {
        /// The endpoint's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not TOML of the expected form.
    #[error("{path} is not as it must be: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why, and where.
        reason: String,
    },
    /// Two endpoints have one name.
    #[error("two endpoints are called {0}")]
    Twice(String),
    /// An endpoint that cannot be.
    #[error("endpoint {name}: {error}")]
    Endpoint {
        /// Its name.
        name: String,
        /// What is wrong.
        error: BadEndpoint,
    },
    /// A key of an endpoint that cannot be.
    #[error("endpoint {name}: key {number}: {error}")]
    Key {
        /// The endpoint's name.
        name: String,
        /// Which of its keys, from 1.
        number: usize,
        /// What is wrong.
        error: BadKey,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    endpoint: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    types: Vec<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    key_files: Vec<PathBuf>,
    timeout_s: Option<u64>,
    concurrency: Option<u16>,
    per_second: Option<u32>,
    #[serde(default)]
    allow_private: bool,
}

/// Reads the endpoints of a TOML file: a table `[[endpoint]]` for each, with `name`, `url`, `types`, and `keys` or `key_files`; and,
/// if they are to be others than usual, `timeout_s`, `concurrency`, `per_second` and `allow_private`.
///
/// # Errors
/// [`BadFile`].
pub fn read_endpoints(path: &Path) -> Result<Vec<Endpoint>, BadFile> {
    let unreadable = |error: io::Error| BadFile::Unreadable { path: path.to_owned(), reason: error.to_string() };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let malformed = |error: toml::de::Error| {
        // Its own display shows the line, which may have a key.
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        BadFile::Malformed { path: path.to_owned(), reason: format!("line {line}: {}", without_text(error.message())) }
    };
    let document: Document = toml::from_str(&text).map_err(malformed)?;
    let mut names = HashSet::new();
    let mut endpoints = Vec::with_capacity(document.endpoint.len());
    for entry in document.endpoint {
        if !names.insert(entry.name.clone()) {
            return Err(BadFile::Twice(entry.name));
        }
        endpoints.push(endpoint(entry)?);
    }
    Ok(endpoints)
}

fn endpoint(entry: Entry) -> Result<Endpoint, BadFile> {
    let mut texts: Vec<SecretString> = entry.keys.into_iter().map(SecretString::from).collect();
    for path in entry.key_files {
        match fs::read_to_string(&path) {
            Ok(text) => texts.push(text.into()),
            Err(error) => return Err(BadFile::UnreadableKey { name: entry.name, path, reason: error.to_string() }),
        }
    }
    let mut keys = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let bad = |error| BadFile::Key { name: entry.name.clone(), number: index + 1, error };
        keys.push(Key::parse(text).map_err(bad)?);
    }
    let bad_url = |error: url::ParseError| BadFile::Endpoint {
        name: entry.name.clone(),
        error: BadEndpoint::BadUrl(error.to_string()),
    };
    let url: Url = entry.url.parse().map_err(bad_url)?;
    let endpoint = Endpoint {
        name: entry.name,
        url,
        types: entry.types,
        keys,
        timeout: entry.timeout_s.map_or(Endpoint::TIMEOUT, Duration::from_secs),
        concurrency: entry.concurrency.unwrap_or(Endpoint::CONCURRENCY),
        per_second: entry.per_second.unwrap_or(0),
        allows_private: entry.allow_private,
    };
    match endpoint.check() {
        Ok(()) => Ok(endpoint),
        Err(error) => Err(BadFile::Endpoint { name: endpoint.name, error }),
    }
}

/// The message without what it quotes of the file: that may be a key in the wrong place.
fn without_text(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => format!("{}\"…\"{}", &message[..first], &message[last + 1..]),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
        let path = std::env::temp_dir().join(format!("overdue-endpoints-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).unwrap();
        let read = read_endpoints(&path);
        std::fs::remove_file(&path).unwrap();
        read.map_err(|error| error.to_string())
    }

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn endpoints_are_read_with_their_usual_limits() {
        let text = format!(
            "[[endpoint]]\nname = \"crm\"\nurl = \"https://crm.example/hooks\"\ntypes = [\"order.*\"]\nkeys = [\"{KEY}\"]\n"
        );
        let read = endpoints(&text).unwrap();
        assert_eq!((read.len(), read[0].name.as_str(), read[0].concurrency), (1, "crm", 16));
        assert_eq!(endpoints("").unwrap().len(), 0);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_shown() {
        let with = |more: &str| {
            format!(
                "[[endpoint]]\nname = \"crm\"\nurl = \"https://crm.example/hooks\"\ntypes = [\"order.*\"]\n{more}\n"
            )
        };
        for (text, words) in [
            (with(""), "it has 0 keys"),
            (with("keys = [\"hunter2\"]"), "key 1: a key begins with whsec_"),
            (with(&format!("keys = [\"{KEY}\", \"{KEY}\", \"{KEY}\"]")), "it has 3 keys"),
            (with(&format!("keys = [\"{KEY}\"]\nurls = 1")), "line 6: unknown field `urls`"),
            (with("keys = \"hunter2\""), "line 5: invalid type: string \"…\", expected a sequence"),
            (
                with(&format!("keys = [\"{KEY}\"]\ntimeout_s = \"{KEY}\"")),
                "line 6: invalid type: string \"…\", expected u64",
            ),
            (with("key_files = [\"/nowhere/key\"]"), "endpoint crm: cannot read the key in /nowhere/key"),
            (with(&format!("keys = [\"{KEY}\"]\ntimeout_s = 31")), "timeout must be"),
            (format!("{0}{0}", with(&format!("keys = [\"{KEY}\"]"))), "two endpoints are called crm"),
            ("endpoint = 1".to_owned(), "line 1"),
        ] {
            let Err(said) = endpoints(&text) else { panic!("{text} was read") };
            assert!(said.contains(words) && !said.contains("hunter2") && !said.contains(KEY), "{text}: {said}");
        }
    }
}
