use std::fmt;
use std::str::FromStr;

/// An order's ID: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(Box<str>);

/// Why a text is not an [`OrderId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrderId {
    /// No characters at all.
    #[error("an order ID must not be empty")]
    Empty,
    /// More than [`OrderId::LENGTH_MAX`] bytes; how many there are.
    #[error("an order ID has at most {max} characters, this one has {0}", max = OrderId::LENGTH_MAX)]
    TooLong(usize),
    /// A character outside the permitted set, and the byte at which it starts.
    #[error(
        "character {character:?} at position {position} is not allowed in an order ID (allowed: A-Z a-z 0-9 . _ : -)"
    )]
    IllegalCharacter {
        /// The offending character.
        character: char,
        /// Its byte offset.
        position: usize,
    },
}

impl OrderId {
    /// The most characters (all of them one byte long) that an ID may have.
    pub const LENGTH_MAX: usize = 64;

    /// Checks `text` and takes a copy of it.
    ///
    /// # Errors
    /// [`BadOrderId`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, BadOrderId> {
        if text.is_empty() {
            return Err(BadOrderId::Empty);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if let Some((position, character)) = text.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(BadOrderId::IllegalCharacter { character, position });
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(BadOrderId::TooLong(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrderId {
    type Err = BadOrderId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_ids_are_accepted() {
        for text in ["842317", "a", "ORD-2026.11_22:x", &"9".repeat(64)] {
            assert_eq!(OrderId::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn each_rule_has_its_own_error() {
        assert_eq!(OrderId::new(""), Err(BadOrderId::Empty));
        assert_eq!(OrderId::new(&"9".repeat(65)), Err(BadOrderId::TooLong(65)));
        assert_eq!(OrderId::new("12 3"), Err(BadOrderId::IllegalCharacter { character: ' ', position: 2 }));
        assert_eq!(OrderId::new("ab\n"), Err(BadOrderId::IllegalCharacter { character: '\n', position: 2 }));
        assert_eq!(OrderId::new("é"), Err(BadOrderId::IllegalCharacter { character: 'é', position: 0 }));
    }
}
