//! Who may come, from a file: names, roles and hashed passwords.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything, change nothing.
    Look,
    /// Change things, too.
    Act,
}

/// A person of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    role: Role,
    /// As `overdue console-password` prints it; `None`: only a proxy can tell that it is this person.
    password: Option<String>,
}

/// The people of the file.
pub struct Users {
    by_name: BTreeMap<String, User>,
    /// Credentials that came before, by their hash, and whose they are; `None`: they are wrong. A password is hashed
    /// slowly, and comes with every request, also from a page that somebody has left open with an old one.
    known: Mutex<HashMap<[u8; 32], Option<String>>>,
    /// A secret of this process for those hashes.
    pepper: [u8; 32],
    /// Hashing takes a processor; others are to have some as well.
    hashing: Arc<Semaphore>,
    /// How often a name may be tried from an address: nobody guesses fast. Behind a proxy all have the same address,
    /// and one who guesses keeps nobody else out.
    tries: DefaultKeyedRateLimiter<(Option<IpAddr>, String)>,
}

/// A name was tried too often from an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUsers(String);

/// How many credentials are remembered.
const KNOWN_MAX: usize = 1_000;

/// The most characters that a name has.
const NAME_CHARACTERS_MAX: usize = 64;

/// How many passwords are hashed at a time.
const HASHING_MAX: usize = 1;

/// How many passwords that did not come before may be tried for a name from an address: a second, and at once.
const TRIES_PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const TRIES_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();

impl Role {
    /// Its name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Act => "act",
        }
    }
}

impl Users {
    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self {
            by_name: BTreeMap::new(),
            known: Mutex::default(),
            pepper: Sha256::digest(SaltString::generate(&mut OsRng).as_str()).into(),
            hashing: Arc::new(Semaphore::new(HASHING_MAX)),
            tries: RateLimiter::keyed(Quota::per_second(TRIES_PER_SECOND).allow_burst(TRIES_AT_ONCE)),
        }
    }

    /// Reads a file: TOML, a table for each person with `role` and `password`.
    ///
    /// # Errors
    /// A sentence with the file's name.
    pub fn read(file: &Path) -> Result<Self, BadUsers> {
        let bad = |reason: String| BadUsers(format!("{}: {reason}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
        Self::parse(&text).map_err(|BadUsers(reason)| bad(reason))
    }

    /// The same from the content of a file.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, BadUsers> {
        // What the library says may show a line of the file, and with it a password.
        let by_name: BTreeMap<String, User> = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            BadUsers(format!("{place}{}", error.message()))
        })?;
        if by_name.is_empty() {
            return Err(BadUsers("it names nobody; docs/console.md has an example".to_owned()));
        }
        for (name, user) in &by_name {
            let fits =
                !name.is_empty() && name.len() <= 64 && !name.contains(':') && !name.chars().any(char::is_control);
            if !fits {
                return Err(BadUsers(format!(
                    "a name has 1 to 64 bytes, and neither a colon nor control characters: {name:?}"
                )));
            }
            if let Some(password) = &user.password
                && PasswordHash::new(password).is_err()
            {
                return Err(BadUsers(format!(
                    "the password of {name} is no hash: `overdue console-password` makes one"
                )));
            }
        }
        Ok(Self { by_name, ..Self::none() })
    }

    /// Whether the file names nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The role of somebody whom a proxy vouches for; who is not in the file may look.
    pub(crate) fn role_of(&self, name: &str) -> Role {
        self.by_name.get(name).map_or(Role::Look, |user| user.role)
    }

    /// The role of somebody who has given this password; `None`: it is wrong, or there is no such person.
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<Option<Role>, TooMany> {
        let credentials = self.fingerprint(name, password);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&credentials).cloned();
        if let Some(known) = known {
            return Ok(known.map(|name| self.role_of(&name)));
        }
        self.tries.retain_recent();
        let tried = name.chars().take(NAME_CHARACTERS_MAX).collect();
        self.tries.check_key(&(from, tried)).map_err(|_| TooMany)?;
        let user = self.by_name.get(name);
        // A name that is not there takes as long as one that is.
        let hash = user.and_then(|user| user.password.clone()).unwrap_or_else(|| DECOY.to_owned());
        let is_real = user.is_some_and(|user| user.password.is_some());
        let password = password.to_owned();
        // The semaphore is never closed.
        let _permit = Arc::clone(&self.hashing).acquire_owned().await;
        let verify = move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        };
        let is_right = tokio::task::spawn_blocking(verify).await.unwrap_or(false);
        let whose = (is_right && is_real).then(|| name.to_owned());
        let role = whose.as_deref().map(|name| self.role_of(name));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(credentials, whose);
        Ok(role)
    }

    fn fingerprint(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.pepper[..], name.as_bytes(), b"\0", password.as_bytes()] {
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The hash of a password for the file of users: Argon2id with the parameters that OWASP recommends
/// (<https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>).
///
/// # Errors
/// A sentence, if it cannot be hashed.
pub fn hash_password(password: &str) -> Result<String, String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

/// The hash of a password that nobody knows.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$b3ZlcmR1ZS1kZWNveQ$QbwzRkG7dFyJ3m7RVzPvNQlWcD7nJfM5vN8oYq6m0aE";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_password_opens_and_a_wrong_one_does_not() {
        let hash = hash_password("correct horse").unwrap();
        let users =
            Users::parse(&format!("[alice]\nrole = \"act\"\npassword = \"{hash}\"\n[bob]\nrole = \"look\"\n")).unwrap();
        assert_eq!(users.log_in("alice", "correct horse", None).await, Ok(Some(Role::Act)));
        assert_eq!(users.log_in("alice", "correct horse", None).await, Ok(Some(Role::Act)), "from memory");
        for (name, password) in [("alice", "Correct horse"), ("alice", ""), ("bob", ""), ("carol", "correct horse")] {
            assert_eq!(users.log_in(name, password, None).await, Ok(None), "{name}");
        }
        assert_eq!(
            (users.role_of("alice"), users.role_of("bob"), users.role_of("carol")),
            (Role::Act, Role::Look, Role::Look)
        );
    }

    #[tokio::test]
    async fn nobody_guesses_fast_and_nobody_else_is_kept_out_by_it() {
        let hash = hash_password("correct horse").unwrap();
        let users =
            Users::parse(&format!("[alice]\nrole = \"act\"\n[bob]\nrole = \"look\"\npassword = \"{hash}\"")).unwrap();
        let from = |address: &str| Some(address.parse().unwrap());
        let mut refused = 0;
        for guess in 0..25 {
            refused += usize::from(users.log_in("alice", &guess.to_string(), from("10.0.0.1")).await == Err(TooMany));
        }
        assert!(refused > 0);
        assert_eq!(users.log_in("alice", "x", from("10.0.0.2")).await, Ok(None), "another address may try");
        // Behind a proxy it is the same address.
        let bob = async |password| users.log_in("bob", password, from("10.0.0.1")).await;
        for _ in 0..50 {
            assert_eq!(bob("his old one").await, Ok(None), "a page that was left open is no guess");
        }
        assert_eq!(bob("correct horse").await, Ok(Some(Role::Look)));
    }

    #[test]
    fn a_bad_file_is_told_of_without_its_secrets() {
        let bad = |text: &str| Users::parse(text).err().unwrap().to_string();
        assert!(bad("").contains("names nobody"));
        assert!(bad("[alice]\nrole = \"act\"\npassword = \"hunter2\"").contains("no hash"));
        assert!(bad("[alice]\nrole = \"root\"").contains("line 2"));
        assert!(bad("[\"a:b\"]\nrole = \"look\"").contains("colon"));
        let leak = bad("[alice]\nrole = \"act\"\npassword = hunter2");
        assert!(leak.contains("line 3") && !leak.contains("hunter2"), "{leak}");
    }

    #[test]
    fn the_decoy_is_a_hash() {
        assert!(PasswordHash::new(DECOY).is_ok());
    }
}
