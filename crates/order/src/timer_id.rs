use std::fmt;
use std::str::FromStr;

use crate::{BadOrderId, OrderId};

/// What a timer is called: its kind, such as `receipt`, and its subject, such as an order's ID. Written `<kind>:<subject>`.
/// A kind has no colon, so the first one divides the two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    name: Box<str>,
    kind_length: u8,
}

/// Why a text is not a [`TimerId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTimerId {
    /// There is no colon.
    #[error("a timer is called KIND:SUBJECT, such as receipt:842317; this has no colon")]
    NoColon,
    /// A kind that is none.
    #[error("{0:?} is not a kind of timer: 1 to 16 characters of a-z 0-9 _, a letter first")]
    BadKind(String),
    /// A kind that Overdue has a use for itself.
    #[error("{0:?} is not a kind of timer: Overdue uses the word itself; take another")]
    ReservedKind(String),
    /// A subject that is none.
    #[error("the subject is wrong: 1 to 64 characters of A-Z a-z 0-9 . _ : -; {0}")]
    BadSubject(BadSubject),
}

/// Which rule a subject breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSubject {
    /// No characters at all.
    #[error("it is empty")]
    Empty,
    /// Too many bytes; how many there are.
    #[error("it has {0}")]
    TooLong(usize),
    /// A character outside the permitted set, and the byte at which it starts.
    #[error("character {character:?} at position {position} is not allowed")]
    IllegalCharacter {
        /// The offending character.
        character: char,
        /// Its byte offset.
        position: usize,
    },
}

impl From<BadOrderId> for BadSubject {
    fn from(error: BadOrderId) -> Self {
        match error {
            BadOrderId::Empty => Self::Empty,
            BadOrderId::TooLong(length) => Self::TooLong(length),
            BadOrderId::IllegalCharacter { character, position } => Self::IllegalCharacter { character, position },
        }
    }
}

impl TimerId {
    /// The most characters of a kind.
    pub const KIND_LENGTH_MAX: usize = 16;

    /// Words that are no kinds of timers: what Overdue itself tells would look like theirs.
    pub const RESERVED_KINDS: [&str; 4] = ["payment", "gateway", "timer", "webhook"];

    /// Checks both parts. A subject has the characters of an order's ID.
    ///
    /// # Errors
    /// [`BadTimerId`] says which rule is broken.
    pub fn new(kind: &str, subject: &str) -> Result<Self, BadTimerId> {
        check_kind(kind)?;
        check_subject(subject)?;
        // At most 16.
        Ok(Self { name: format!("{kind}:{subject}").into(), kind_length: kind.len() as u8 })
    }

    /// What it is about: the part before the first colon.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.name[..self.kind_length.into()]
    }

    /// Whose it is: the part after it.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.name[usize::from(self.kind_length) + 1..]
    }

    /// Both, with the colon.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

/// Whether a text is a timer's subject.
///
/// # Errors
/// [`BadTimerId`] says why not.
pub fn check_subject(subject: &str) -> Result<(), BadTimerId> {
    OrderId::new(subject).map(drop).map_err(|error| BadTimerId::BadSubject(error.into()))
}

/// Whether a word is a kind of timer.
///
/// # Errors
/// [`BadTimerId`] says why not.
pub fn check_kind(kind: &str) -> Result<(), BadTimerId> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let fits = (1..=TimerId::KIND_LENGTH_MAX).contains(&kind.len())
        && kind.bytes().all(allowed)
        && kind.as_bytes()[0].is_ascii_lowercase();
    if !fits {
        return Err(BadTimerId::BadKind(kind.chars().take(40).collect()));
    }
    if TimerId::RESERVED_KINDS.contains(&kind) {
        return Err(BadTimerId::ReservedKind(kind.to_owned()));
    }
    Ok(())
}

impl FromStr for TimerId {
    type Err = BadTimerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, subject) = text.split_once(':').ok_or(BadTimerId::NoColon)?;
        Self::new(kind, subject)
    }
}

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_divides_kind_and_subject() {
        for (text, kind, subject) in [
            ("receipt:842317", "receipt", "842317"),
            ("seat_1:row:7", "seat_1", "row:7"),
            ("abcdefghijklmnop::", "abcdefghijklmnop", ":"),
        ] {
            let id: TimerId = text.parse().unwrap();
            assert_eq!((id.kind(), id.subject(), id.as_str()), (kind, subject, text));
        }
    }

    #[test]
    fn each_rule_has_its_own_error() {
        let bad = |text: &str| text.parse::<TimerId>().unwrap_err();
        assert_eq!(bad("receipt"), BadTimerId::NoColon);
        for kind in ["", "Receipt", "1st", "_a", "re-ceipt", "abcdefghijklmnopq", "é"] {
            assert_eq!(bad(&format!("{kind}:1")), BadTimerId::BadKind(kind.to_owned()));
        }
        for kind in TimerId::RESERVED_KINDS {
            assert_eq!(bad(&format!("{kind}:1")), BadTimerId::ReservedKind(kind.to_owned()));
        }
        assert_eq!(bad("receipt:"), BadTimerId::BadSubject(BadSubject::Empty));
        assert_eq!(bad(&format!("receipt:{}", "9".repeat(65))), BadTimerId::BadSubject(BadSubject::TooLong(65)));
        let blank = BadSubject::IllegalCharacter { character: ' ', position: 1 };
        assert_eq!(bad("receipt:a b"), BadTimerId::BadSubject(blank));
    }
}
