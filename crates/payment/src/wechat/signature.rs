//! What is signed, by whom, and how it is verified: SHA-256 with RSA, PKCS#1 v1.5
//! (<https://pay.weixin.qq.com/wiki/doc/api_external/en/wechatpay/wechatpay3_3.shtml>).

use data_encoding::BASE64;
use http::HeaderMap;

use crate::{GatewayFault, rsa};

/// What a request's signature covers. A GET has an empty body, and its empty line all the same.
pub(super) fn request_message(method: &str, path_and_query: &str, timestamp: i64, nonce: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("{method}\n{path_and_query}\n{timestamp}\n{nonce}\n").into_bytes();
    message.extend_from_slice(body);
    message.push(b'\n');
    message
}

/// What an answer or a notification says of its own signature.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) timestamp: &'a str,
    pub(super) nonce: &'a str,
    pub(super) serial: &'a str,
    signature: Vec<u8>,
}

/// The prefix of signatures that are wrong on purpose: the gateway probes whether we verify at all.
const PROBE: &str = "WECHATPAY/SIGNTEST/";

impl<'a> Signed<'a> {
    pub(super) fn read(headers: &'a HeaderMap) -> Result<Self, GatewayFault> {
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
            value.ok_or_else(|| protocol(&format!("it is not signed: {name} is missing")))
        };
        let signature = header("wechatpay-signature")?;
        if signature.starts_with(PROBE) {
            return Err(protocol("its signature is a probe, wrong on purpose"));
        }
        Ok(Self {
            timestamp: header("wechatpay-timestamp")?,
            nonce: header("wechatpay-nonce")?,
            serial: header("wechatpay-serial")?,
            signature: BASE64.decode(signature.as_bytes()).map_err(|_| protocol("its signature is not base64"))?,
        })
    }

    /// Verifies the signature over `body` with the modulus and exponent (an RSAPublicKey of PKCS#1, in DER).
    pub(super) fn verify(&self, public_key_der: &[u8], body: &[u8]) -> Result<(), GatewayFault> {
        let mut message = format!("{}\n{}\n", self.timestamp, self.nonce).into_bytes();
        message.extend_from_slice(body);
        message.push(b'\n');
        rsa::verify(public_key_der, &message, &self.signature)
    }
}

fn protocol(detail: &str) -> GatewayFault {
    GatewayFault::Protocol(detail.to_owned())
}
