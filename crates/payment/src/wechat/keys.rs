//! The gateway's keys, by the serial number that names each in `Wechatpay-Serial`.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use data_encoding::{BASE64, HEXUPPER};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::GatewayFault;
use crate::rsa::{BadKey, first_pem, public_key};

/// A key with which the gateway signs.
#[derive(Debug, Clone)]
pub struct VerificationKey {
    /// How `Wechatpay-Serial` names it: the certificate's serial number in hexadecimal capitals, or
    /// `PUB_KEY_ID_…`.
    pub serial: String,
    /// RSAPublicKey of PKCS#1, in DER.
    public_key_der: Vec<u8>,
    /// A certificate is valid for a time; a public key until it is taken away.
    valid: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl VerificationKey {
    /// The key of a platform certificate (PEM).
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn from_certificate(pem: &[u8]) -> Result<Self, BadKey> {
        let bad = |what: &str| BadKey(format!("it is not a certificate in PEM form: {what}"));
        let pem = first_pem(pem, "CERTIFICATE")?;
        let certificate = pem.parse_x509().map_err(|error| bad(&error.to_string()))?;
        let serial = HEXUPPER.encode(certificate.raw_serial());
        // DER puts a zero before a serial number whose first bit is set.
        let serial = serial.strip_prefix("00").unwrap_or(&serial).to_owned();
        let validity = certificate.validity();
        Ok(Self {
            serial,
            public_key_der: certificate.public_key().subject_public_key.data.to_vec(),
            valid: Some((validity.not_before.to_datetime(), validity.not_after.to_datetime())),
        })
    }

    /// A public key (PEM) with its ID, `PUB_KEY_ID_…`.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn from_public_key(id: &str, pem: &[u8]) -> Result<Self, BadKey> {
        if !id.starts_with("PUB_KEY_ID_") {
            return Err(BadKey(format!("the ID of a public key begins with PUB_KEY_ID_, {id:?} does not")));
        }
        Ok(Self { serial: id.to_owned(), public_key_der: public_key(pem)?, valid: None })
    }

    fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.valid.is_none_or(|(from, until)| from <= now && now <= until)
    }
}

/// The keys that are known now.
#[derive(Debug)]
pub(super) struct KeyRing {
    keys: RwLock<HashMap<String, VerificationKey>>,
}

impl KeyRing {
    pub(super) fn new(keys: Vec<VerificationKey>) -> Self {
        Self { keys: RwLock::new(keys.into_iter().map(|key| (key.serial.clone(), key)).collect()) }
    }

    /// The public key that this serial number names; `None` if none does, or none that is valid now.
    pub(super) fn find(&self, serial: &str, now: OffsetDateTime) -> Option<Vec<u8>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(serial).filter(|key| key.is_valid(now)).map(|key| key.public_key_der.clone())
    }

    pub(super) fn add(&self, new: Vec<VerificationKey>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.extend(new.into_iter().map(|key| (key.serial.clone(), key)));
    }
}

/// Something that the gateway has encrypted for us with AES-256-GCM.
#[derive(Deserialize)]
pub(super) struct Encrypted {
    /// Twelve characters.
    nonce: String,
    #[serde(default)]
    associated_data: String,
    /// Base64; the last 16 bytes are the tag.
    ciphertext: String,
}

impl Encrypted {
    /// Decrypts with the APIv3 key.
    pub(super) fn open(&self, api_v3_key: &[u8; 32]) -> Result<Vec<u8>, GatewayFault> {
        let bad = |what: &str| GatewayFault::Protocol(format!("what it has encrypted cannot be read: {what}"));
        let nonce = Nonce::try_assume_unique_for_key(self.nonce.as_bytes())
            .map_err(|_| bad("the nonce has not 12 characters"))?;
        let mut data = BASE64.decode(self.ciphertext.as_bytes()).map_err(|_| bad("it is not base64"))?;
        let key = UnboundKey::new(&AES_256_GCM, api_v3_key).map_err(|_| bad("the APIv3 key has not 32 bytes"))?;
        let plain = LessSafeKey::new(key)
            .open_in_place(nonce, Aad::from(self.associated_data.as_bytes()), &mut data)
            .map_err(|_| bad("it was changed, or the APIv3 key is another"))?;
        Ok(plain.to_vec())
    }
}

/// The answer of `GET /v3/certificates`.
#[derive(Deserialize)]
pub(super) struct Certificates {
    data: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
struct CertificateEntry {
    encrypt_certificate: Encrypted,
}

impl Certificates {
    /// The keys in it. They are genuine: only the gateway and we know the key that they are encrypted with.
    pub(super) fn open(&self, api_v3_key: &[u8; 32]) -> Result<Vec<VerificationKey>, GatewayFault> {
        let open = |entry: &CertificateEntry| {
            let pem = entry.encrypt_certificate.open(api_v3_key)?;
            VerificationKey::from_certificate(&pem).map_err(|error| GatewayFault::Protocol(error.0))
        };
        self.data.iter().map(open).collect()
    }
}
