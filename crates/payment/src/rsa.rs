//! SHA-256 with RSA (PKCS#1 v1.5), in base64: how Chinese gateways sign.

use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::GatewayFault;

/// A key that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(pub String);

/// A merchant's private key: PKCS#8 in PEM form.
pub(crate) fn private_key(pem: &[u8]) -> Result<RsaKeyPair, BadKey> {
    let private = Pem::iter_from_buffer(pem).flatten().find(|pem| pem.label == "PRIVATE KEY");
    let private = private.ok_or_else(|| {
        BadKey("the merchant's private key is not PKCS#8 in PEM form (BEGIN PRIVATE KEY); `openssl pkcs8 -topk8 -nocrypt` makes one of another form".to_owned())
    })?;
    RsaKeyPair::from_pkcs8(&private.contents)
        .map_err(|error| BadKey(format!("the merchant's private key is no RSA key that can be used: {error}")))
}

/// A public key in PEM form, as an RSAPublicKey of PKCS#1 in DER.
pub(crate) fn public_key(pem: &[u8]) -> Result<Vec<u8>, BadKey> {
    let pem = first_pem(pem, "PUBLIC KEY")?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents)
        .map_err(|error| BadKey(format!("it is not a public key in PEM form: {error}")))?;
    Ok(info.subject_public_key.data.to_vec())
}

pub(crate) fn first_pem(bytes: &[u8], label: &str) -> Result<Pem, BadKey> {
    let found = Pem::iter_from_buffer(bytes).flatten().find(|pem| pem.label == label);
    found.ok_or_else(|| BadKey(format!("there is no {label} in PEM form in it")))
}

/// Signs.
pub(crate) fn sign(key: &RsaKeyPair, message: &[u8]) -> Result<String, GatewayFault> {
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
        .map_err(|_| GatewayFault::Unauthenticated("the private key does not sign".to_owned()))?;
    Ok(BASE64.encode(&signature))
}

/// Verifies a signature with the modulus and exponent (an RSAPublicKey of PKCS#1, in DER).
pub(crate) fn verify(public_key_der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), GatewayFault> {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key_der)
        .verify(message, signature)
        .map_err(|_| GatewayFault::Protocol("its signature is wrong".to_owned()))
}
