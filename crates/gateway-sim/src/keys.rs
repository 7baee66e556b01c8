//! Keys, made by `openssl`: nothing here is shared with the client that is tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};

/// The keys of a merchant and of the platform, in a directory: PEM files that other programs can read, too.
#[derive(Debug, Clone)]
pub struct Keys {
    directory: PathBuf,
}

/// A key with which the platform signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// The first platform certificate.
    Certificate1,
    /// The one that follows it.
    Certificate2,
    /// The public key of the newer way.
    PublicKey,
    /// A certificate that the platform does not tell of.
    Unknown,
}

impl Signer {
    const ALL: [Self; 4] = [Self::Certificate1, Self::Certificate2, Self::PublicKey, Self::Unknown];

    fn name(self) -> &'static str {
        match self {
            Self::Certificate1 => "platform-1",
            Self::Certificate2 => "platform-2",
            Self::PublicKey => "platform-public",
            Self::Unknown => "unknown",
        }
    }
}

impl Keys {
    /// The keys in this directory; those that are missing are made.
    ///
    /// # Errors
    /// If `openssl` is missing or the directory cannot be written.
    pub fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let cannot_create = || format!("cannot create {}", directory.display());
        std::fs::create_dir_all(directory).with_context(cannot_create)?;
        // One process at a time: each of several would find what another has made by half.
        let lock = std::fs::File::create(directory.join("lock")).with_context(cannot_create)?;
        lock.lock().with_context(cannot_create)?;
        let keys = Self { directory: directory.to_owned() };
        keys.make("merchant")?;
        for signer in Signer::ALL {
            keys.make(signer.name())?;
        }
        Ok(keys)
    }

    fn make(&self, name: &str) -> anyhow::Result<()> {
        let (key, certificate) = (self.key_file(name), self.file(name, "crt"));
        if certificate.exists() {
            return Ok(());
        }
        let bits = "rsa_keygen_bits:2048";
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", bits, "-out", &text(&key)])?;
        openssl(&["pkey", "-in", &text(&key), "-pubout", "-out", &text(&self.file(name, "pub"))])?;
        openssl(&["pkey", "-in", &text(&key), "-outform", "DER", "-out", &text(&self.file(name, "der"))])?;
        let subject = format!("/CN={name} of the simulator");
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            &text(&key),
            "-days",
            "3650",
            "-subj",
            &subject,
            "-out",
            &text(&certificate),
        ])
    }

    /// The merchant's private key (PKCS#8, PEM).
    #[must_use]
    pub fn merchant_key_file(&self) -> PathBuf {
        self.key_file("merchant")
    }

    /// The merchant's public key (PEM).
    #[must_use]
    pub fn merchant_public_key_file(&self) -> PathBuf {
        self.file("merchant", "pub")
    }

    /// A certificate of the platform (PEM).
    #[must_use]
    pub fn certificate_file(&self, signer: Signer) -> PathBuf {
        self.file(signer.name(), "crt")
    }

    /// A public key of the platform (PEM).
    #[must_use]
    pub fn public_key_file(&self, signer: Signer) -> PathBuf {
        self.file(signer.name(), "pub")
    }

    /// How `Wechatpay-Serial` names a key.
    ///
    /// # Errors
    /// If `openssl` cannot tell.
    pub fn serial(&self, signer: Signer) -> anyhow::Result<String> {
        if signer == Signer::PublicKey {
            return Ok(crate::PUBLIC_KEY_ID.to_owned());
        }
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in", &text(&self.certificate_file(signer))])
            .output()?;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let serial = line.strip_prefix("serial=").context("openssl tells no serial number")?;
        Ok(serial.to_owned())
    }

    pub(crate) fn sign_with(&self, signer: Signer) -> anyhow::Result<RsaKeyPair> {
        let der = std::fs::read(self.file(signer.name(), "der"))?;
        RsaKeyPair::from_der(&der)
            .or_else(|_| RsaKeyPair::from_pkcs8(&der))
            .map_err(|error| anyhow::anyhow!("{}: {error}", signer.name()))
    }

    /// The merchant's public key as an RSAPublicKey in DER.
    pub(crate) fn merchant_public_key(&self) -> anyhow::Result<Vec<u8>> {
        let file = text(&self.merchant_public_key_file());
        let output = Command::new("openssl")
            .args(["rsa", "-pubin", "-in", &file, "-RSAPublicKey_out", "-outform", "DER"])
            .output()?;
        ensure!(output.status.success(), "openssl cannot read {file}");
        Ok(output.stdout)
    }

    fn key_file(&self, name: &str) -> PathBuf {
        self.file(name, "key")
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }
}

/// Signs with SHA-256 and RSA, in base64.
pub(crate) fn sign(key: &RsaKeyPair, message: &[u8]) -> String {
    let mut signature = vec![0; key.public().modulus_len()];
    // Fails only for keys that `from_pkcs8` does not let through.
    let _ = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
    BASE64.encode(&signature)
}

pub(crate) fn is_signed_by(public_key: &[u8], message: &[u8], signature: &str) -> bool {
    BASE64.decode(signature.as_bytes()).is_ok_and(|signature| {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key).verify(message, &signature).is_ok()
    })
}

fn openssl(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("openssl").args(arguments).output().context("openssl cannot be run; install it")?;
    if !output.status.success() {
        bail!("openssl {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
