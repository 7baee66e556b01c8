//! TLS as `sslmode` asks for it. The files are read once, so that both drivers present and trust the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::DatabaseError;
use crate::url::SslSettings;

/// The contents of the files that the URL names.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    /// `None`: the system's authorities.
    pub(crate) root: Option<PemFile>,
    /// Our own certificate and its private key.
    pub(crate) identity: Option<(PemFile, PemFile)>,
}

#[derive(Clone)]
pub(crate) struct PemFile {
    path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// How much of the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// `allow`, `prefer` and `require`: nothing.
    Nothing,
    /// `verify-ca`: who signed it.
    Authority,
    /// `verify-full`: who signed it, and the host's name.
    AuthorityAndName,
}

impl Certificates {
    pub(crate) fn read(settings: &SslSettings) -> Result<Self, DatabaseError> {
        let root = settings.root.as_deref().map(PemFile::read).transpose()?;
        let identity = match &settings.identity {
            Some((certificate, key)) => Some((PemFile::read(certificate)?, PemFile::read(key)?)),
            None => None,
        };
        Ok(Self { root, identity })
    }

    /// What a connection needs that verifies this much.
    pub(crate) fn client_config(&self, verify: Verify) -> Result<ClientConfig, DatabaseError> {
        let provider = Arc::new(ring::default_provider());
        let inner = match verify {
            Verify::Nothing => None,
            Verify::Authority | Verify::AuthorityAndName => {
                let roots = Arc::new(self.roots()?);
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                Some(verifier.map_err(|error| self.unusable_root(&error.to_string()))?)
            }
        };
        let verifier = ServerVerifier { verify, inner, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| DatabaseError::BadUrl(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificate.certificates()?;
        let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| key.bad(&error.to_string()))?;
        builder.with_client_auth_cert(chain, private).map_err(|error| key.bad(&error.to_string()))
    }

    fn roots(&self) -> Result<RootCertStore, DatabaseError> {
        let mut store = RootCertStore::empty();
        let Some(root) = &self.root else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(store);
        };
        for certificate in root.certificates()? {
            store.add(certificate).map_err(|error| root.bad(&error.to_string()))?;
        }
        Ok(store)
    }

    fn unusable_root(&self, reason: &str) -> DatabaseError {
        match &self.root {
            Some(root) => root.bad(reason),
            None => bad(Path::new("the system's store"), reason),
        }
    }
}

impl PemFile {
    fn read(path: &Path) -> Result<Self, DatabaseError> {
        let bytes = std::fs::read(path).map_err(|error| bad(path, &error.to_string()))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// At least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, DatabaseError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = certificates.map_err(|error| self.bad(&error.to_string()))?;
        if certificates.is_empty() { Err(self.bad("it holds no certificate")) } else { Ok(certificates) }
    }

    fn bad(&self, reason: &str) -> DatabaseError {
        bad(&self.path, reason)
    }
}

fn bad(path: &Path, reason: &str) -> DatabaseError {
    DatabaseError::BadCertificates { path: path.display().to_string(), reason: reason.to_owned() }
}

/// Verifies as much as `sslmode` asks for. rustls itself only knows all.
#[derive(Debug)]
struct ServerVerifier {
    verify: Verify,
    /// Absent where nothing is verified.
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Authority => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
