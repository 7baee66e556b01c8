//! Signatures by Standard Webhooks 1.0.

use data_encoding::{BASE64, HEXLOWER};
use ring::hmac;
use ring::signature::Ed25519KeyPair;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// A key of an endpoint.
pub enum Key {
    /// `whsec_…`: both sides have it; signatures `v1`, HMAC-SHA256.
    Shared(hmac::Key),
    /// `whsk_…`: only we have it, and the receiver its public half; signatures `v1a`, Ed25519.
    Private(Box<Ed25519KeyPair>),
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It begins with neither prefix.
    #[error("a key begins with whsec_ (shared, base64 of 24 to 64 bytes) or whsk_ (private, Ed25519)")]
    NoPrefix,
    /// What follows is not base64.
    #[error("what follows the prefix is not base64")]
    NotBase64,
    /// A shared key of another length.
    #[error("a shared key has 24 to 64 bytes, this one has {0}")]
    WrongLength(usize),
    /// A private key that is none.
    #[error("the private key is no Ed25519 key: 32 bytes of seed, or 64 with the public half")]
    NotEd25519,
}

/// Signs what one endpoint is sent.
pub struct Signer {
    keys: Vec<Key>,
}

/// How many bytes of the digest make an ID: 128 bits.
const ID_BYTES: usize = 16;

/// The ID that the receiver deduplicates by: the same each time that an event is sent. It has no dots and nothing of the event's own
/// ID, in which users have a say.
#[must_use]
pub fn message_id(event_id: &str) -> String {
    format!("evt_{}", HEXLOWER.encode(&Sha256::digest(event_id.as_bytes())[..ID_BYTES]))
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// [`BadKey`]; it has nothing of the key in it.
    pub fn parse(text: &SecretString) -> Result<Self, BadKey> {
        let text = text.expose_secret().trim();
        let decoded = |base64: &str| BASE64.decode(base64.as_bytes()).map_err(|_| BadKey::NotBase64);
        if let Some(base64) = text.strip_prefix("whsec_") {
            let bytes = decoded(base64)?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(BadKey::WrongLength(bytes.len()));
            }
            return Ok(Self::Shared(hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
        }
        let bytes = decoded(text.strip_prefix("whsk_").ok_or(BadKey::NoPrefix)?)?;
        let pair = match bytes.len() {
            32 => Ed25519KeyPair::from_seed_unchecked(&bytes),
            64 => Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]),
            _ => return Err(BadKey::NotEd25519),
        };
        pair.map(|pair| Self::Private(Box::new(pair))).map_err(|_| BadKey::NotEd25519)
    }

    fn sign(&self, content: &[u8]) -> String {
        match self {
            Self::Shared(key) => format!("v1,{}", BASE64.encode(hmac::sign(key, content).as_ref())),
            Self::Private(pair) => format!("v1a,{}", BASE64.encode(pair.sign(content).as_ref())),
        }
    }
}

impl Signer {
    /// Signs with each of these keys: while one is being changed, receivers know one of two.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// The header `webhook-signature`: a signature by each key, with blanks between them.
    #[must_use]
    pub fn signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut content = format!("{id}.{timestamp}.").into_bytes();
        content.extend_from_slice(body);
        self.keys.iter().map(|key| key.sign(&content)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<Key, BadKey> {
        Key::parse(&text.into())
    }

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification's libraries.
        let signer = Signer::new(vec![key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()]);
        let signature = signer.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs() {
        let two = Signer::new(vec![
            key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
            key(&format!("whsk_{}", BASE64.encode(&[7; 32]))).unwrap(),
        ]);
        let signature = two.signature("evt_1", 1, b"{}");
        let versions: Vec<&str> = signature.split(' ').map(|one| one.split(',').next().unwrap()).collect();
        assert_eq!(versions, ["v1", "v1a"]);
    }

    #[test]
    fn what_is_no_key_says_why_and_does_not_show_it() {
        for (text, expected) in [
            ("secret", BadKey::NoPrefix),
            ("whsec_???", BadKey::NotBase64),
            ("whsec_c2hvcnQ=", BadKey::WrongLength(5)),
            ("whsk_c2hvcnQ=", BadKey::NotEd25519),
        ] {
            assert_eq!(key(text).err(), Some(expected), "{text}");
        }
    }

    #[test]
    fn an_id_has_no_dots_and_stays_the_same() {
        let id = message_id("timer:sms:a.b:1");
        assert_eq!(id, message_id("timer:sms:a.b:1"));
        assert!(id.starts_with("evt_") && id.len() == 36 && !id.contains('.'));
    }
}
