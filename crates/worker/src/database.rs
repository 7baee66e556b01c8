use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use crate::BookError;

/// A pool of connections to PostgreSQL.
pub type Pool = deadpool_postgres::Pool;

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/database`, with `sslmode` (disable, prefer, require, verify-ca,
    /// verify-full) and `sslrootcert` as libpq knows them.
    pub url: SecretString,
    /// How many connections there may be.
    pub connections_max: usize,
    /// How long connecting, or waiting for a free connection, may take.
    pub connect_timeout: Duration,
    /// How long a statement may take, waiting for locks included.
    pub statement_timeout: Duration,
    /// What the connections are for.
    pub purpose: Purpose,
}

/// What a connection is for, and with it how its statements are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Loading and settling some orders out of very many, by their keys.
    Settle,
    /// Questions about whole tables.
    Report,
}

impl Purpose {
    /// Settings of the session. Loading and settling must look rows up by their keys whatever the planner
    /// believes of the tables: in a flash sale the statistics are those of the quiet hour before, and a plan
    /// that reads a whole table, or all pending orders, for each batch would never come to an end. With a plan
    /// that knows no batch size (generic) and joins that can only be nested loops over indexes, nothing else
    /// is left to choose; it also saves planning each batch anew. And nobody waits for long for a row that somebody
    /// else holds locked: a batch goes on without it.
    #[must_use]
    pub fn session_options(self) -> &'static str {
        match self {
            Self::Settle => {
                "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off \
                 -c enable_hashjoin=off -c enable_mergejoin=off -c enable_material=off -c lock_timeout=3000"
            }
            Self::Report => "",
        }
    }
}

/// How the server finds out that we are gone without having said so: locks, and the lead of the sweep, would be held
/// for hours by its own defaults.
const SERVER_KEEPALIVES: &str = "-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL, or an option in it.
    #[error("the database's URL is not valid: {0}")]
    BadUrl(String),
    /// The file that `sslrootcert` names.
    #[error("cannot use the certificates in {path}: {reason}")]
    BadCertificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A pool that connects when it is first used. Everything in it is bounded: connections, waiting, connecting,
/// statements, and the silence after which a connection counts as dead.
///
/// # Errors
/// [`DatabaseError`].
pub fn connect(settings: &DatabaseSettings) -> Result<Pool, DatabaseError> {
    let (mut config, tls) = parse(settings.url.expose_secret())?;
    let timeout_ms = settings.statement_timeout.as_millis();
    let options = format!(
        "{} -c TimeZone=UTC {SERVER_KEEPALIVES} -c statement_timeout={timeout_ms} -c idle_in_transaction_session_timeout={timeout_ms} {}",
        config.get_options().unwrap_or_default(),
        settings.purpose.session_options(),
    );
    config
        .options(options.trim())
        .application_name("overdue")
        .connect_timeout(settings.connect_timeout)
        // The driver's own keep-alive of two hours would leave a worker waiting that long for a dead host.
        .keepalives_idle(Duration::from_secs(15))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(30));
    // `Fast` would hand out connections whose server has been restarted.
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Verified };
    let manager = match tls {
        None => Manager::from_config(config, NoTls, manager_config),
        Some(tls) => Manager::from_config(config, MakeRustlsConnect::new(tls), manager_config),
    };
    Pool::builder(manager)
        .max_size(settings.connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(settings.connect_timeout))
        .create_timeout(Some(settings.connect_timeout))
        .recycle_timeout(Some(settings.connect_timeout))
        .build()
        .map_err(|error| DatabaseError::BadUrl(error.to_string()))
}

/// Takes a connection and gives it back: tells whether there is one to be had.
///
/// # Errors
/// [`BookError::Away`] says why not.
pub async fn probe(pool: &Pool) -> Result<(), BookError> {
    let away = |error: deadpool_postgres::PoolError| BookError::Away(with_source(&error));
    pool.get().await.map(drop).map_err(away)
}

/// Whether sessions have the settings that were asked for: a pooler in between may drop them.
///
/// # Errors
/// [`BookError::Away`] if there is no session to be had.
pub async fn session_is_as_set(pool: &Pool) -> Result<bool, BookError> {
    let client = pool.get().await.map_err(|error| BookError::Away(with_source(&error)))?;
    let row = client.query_one("select current_setting('plan_cache_mode')", &[]).await;
    let mode: String = row.map_err(|error| BookError::Away(with_source(&error)))?.get(0);
    Ok(mode == "force_generic_plan")
}

/// What is verified of the server's certificate, by the names of libpq
/// (<https://www.postgresql.org/docs/current/libpq-ssl.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    /// `prefer` and `require`: nothing, unless a root certificate is given.
    Nothing,
    /// `verify-ca`: who signed it.
    Authority,
    /// `verify-full`: who signed it, and the host's name.
    AuthorityAndName,
}

/// The driver knows three values of `sslmode` and no `sslrootcert`; both are taken out of the URL here.
fn parse(url: &str) -> Result<(Config, Option<ClientConfig>), DatabaseError> {
    let bad = |reason: String| DatabaseError::BadUrl(reason);
    let mut url: Url = url.parse().map_err(|error: url::ParseError| bad(error.to_string()))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(bad(format!("the scheme is {}, not postgres", url.scheme())));
    }
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let (mut mode, mut root, mut kept) = ("prefer".to_owned(), None, Vec::new());
    for (name, value) in pairs {
        match name.as_str() {
            "sslmode" => mode = value,
            "sslrootcert" => root = Some(value),
            _ => kept.push((name, value)),
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
        // That is the form of HTML forms, in which a blank is a plus; here it would stay one.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
    }
    let mut config: Config = url.as_str().parse().map_err(|error: tokio_postgres::Error| bad(with_source(&error)))?;
    let (ssl_mode, verify) = match mode.as_str() {
        "disable" => return Ok((config, None)),
        "prefer" => (SslMode::Prefer, Verify::Nothing),
        "require" if root.is_none() => (SslMode::Require, Verify::Nothing),
        // As libpq does: with a root certificate at hand, `require` means `verify-ca`.
        "require" | "verify-ca" => (SslMode::Require, Verify::Authority),
        "verify-full" => (SslMode::Require, Verify::AuthorityAndName),
        other => {
            return Err(bad(format!("sslmode={other} is none of disable, prefer, require, verify-ca, verify-full")));
        }
    };
    config.ssl_mode(ssl_mode);
    Ok((config, Some(tls_config(verify, root.as_deref())?)))
}

fn tls_config(verify: Verify, root: Option<&str>) -> Result<ClientConfig, DatabaseError> {
    let provider = Arc::new(ring::default_provider());
    let inner = if verify == Verify::Nothing {
        None
    } else {
        let unusable = |reason: String| DatabaseError::BadCertificates {
            path: root.unwrap_or("the system's store").to_owned(),
            reason,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root)?), Arc::clone(&provider));
        Some(verifier.build().map_err(|error| unusable(error.to_string()))?)
    };
    let verifier = ServerVerifier { verify, inner, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DatabaseError::BadUrl(error.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn roots(path: Option<&str>) -> Result<RootCertStore, DatabaseError> {
    let mut store = RootCertStore::empty();
    let Some(path) = path else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let bad = |reason: String| DatabaseError::BadCertificates { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        store.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(store)
}

/// Verifies as much as `sslmode` asks for; rustls itself only knows all.
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

/// An error and its causes in one sentence: the driver's errors name their kind alone, and often twice.
pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !sentence.ends_with(&text) {
            sentence = format!("{sentence}: {text}");
        }
        next = cause.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        parse(url).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn options_of_libpq_are_understood_and_others_refused_with_a_sentence() {
        let (config, tls) = parse("postgres://u:p%40ss@db:5433/shop?sslmode=disable&application_name=x").unwrap();
        assert_eq!(
            (config.get_dbname(), config.get_password(), config.get_ports()),
            (Some("shop"), Some(&b"p@ss"[..]), &[5433][..])
        );
        assert!(tls.is_none());
        let (config, _) = parse("postgres://u@db/shop?options=-c%20search_path%3Dshop%2Ba").unwrap();
        assert_eq!(config.get_options(), Some("-c search_path=shop+a"));
        assert!(parse("postgres://u@db/shop?sslmode=verify-full").unwrap().1.is_some());
        assert!(refused("mysql://u@db/shop").contains("not postgres"));
        assert!(refused("postgres://u@db/shop?sslmode=yes").contains("verify-full"));
        assert!(refused("postgres://u@db/shop?sslmode=verify-ca&sslrootcert=/nowhere").contains("/nowhere"));
        assert!(refused("postgres://u@db/shop?colour=red").contains("colour"));
    }
}
