use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The bearer token that opens the order service. Only its hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// Why a token cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Fewer bytes than [`Token::BYTES_MIN`].
    #[error("must have {} bytes or more", Token::BYTES_MIN)]
    TooShort,
    /// A character that clients cannot send as a part of it.
    #[error("has a blank, a line end or another character at place {0} that clients cannot send in a header")]
    Unsendable(usize),
}

impl Token {
    /// The fewest bytes that a token may have.
    pub const BYTES_MIN: usize = 16;

    /// A token of at least [`Token::BYTES_MIN`] visible ASCII characters.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn new(token: &SecretString) -> Result<Self, BadToken> {
        let token = token.expose_secret().as_bytes();
        if let Some(place) = token.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err(BadToken::Unsendable(place + 1));
        }
        if token.len() < Self::BYTES_MIN { Err(BadToken::TooShort) } else { Ok(Self(Sha256::digest(token).into())) }
    }

    /// Compares hashes, all of them to the end, so that the time that it takes tells nothing.
    pub(crate) fn is(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(&Sha256::digest(presented)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let token = Token::new(&"correct-horse-battery".into()).ok().unwrap();
        assert!(token.is(b"correct-horse-battery"));
        assert!(!token.is(b"correct-horse-batterz") && !token.is(b"") && !token.is(b"correct-horse-battery "));
        assert_eq!(Token::new(&"short".into()).err(), Some(BadToken::TooShort));
        for (text, place) in
            [("correct horse battery", 8), ("correct-horse-battery\n", 22), ("kör-ect-horse-battery", 2)]
        {
            assert_eq!(Token::new(&text.into()).err(), Some(BadToken::Unsendable(place)), "{text:?}");
        }
    }
}
