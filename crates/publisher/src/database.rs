use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection, PgConnection, PgPool};

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/database`, with `sslmode` and `sslrootcert` as libpq knows them.
    pub url: SecretString,
    /// How many connections there may be.
    pub connections_max: u32,
    /// How long connecting, or waiting for a free connection, may take.
    pub connect_timeout: Duration,
    /// How long a statement may take, waiting for locks included.
    pub statement_timeout: Duration,
    /// Settings of the session besides, such as [`RELAY_SESSION`].
    pub session: &'static [(&'static str, &'static str)],
}

/// Settings of a relay's sessions: rows of the outbox are found by their keys, although the statistics, made
/// when it was empty, say that reading all of it costs nothing.
pub const RELAY_SESSION: &[(&str, &str)] = &[("enable_seqscan", "off"), ("plan_cache_mode", "force_custom_plan")];

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL, or an option in it.
    #[error("the database's URL is not valid: {0}")]
    BadUrl(String),
    /// No answer, a refused login, a certificate that is not trusted.
    #[error("cannot use the database at {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong.
        reason: String,
    },
}

/// A pool of connections. One is opened and closed again first, so that whatever is wrong is said now, and not
/// hidden behind a time-out of the pool.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(settings: &DatabaseSettings) -> Result<PgPool, ConnectError> {
    let options = options(settings)?;
    let address = format!("{}:{}", options.get_host(), options.get_port());
    let unreachable = |reason: String| ConnectError::Unreachable { address, reason };
    match tokio::time::timeout(settings.connect_timeout, PgConnection::connect_with(&options)).await {
        Err(_) => return Err(unreachable(format!("no answer within {} ms", settings.connect_timeout.as_millis()))),
        Ok(Err(error)) => {
            // Without what sqlx adds: a line of PostgreSQL's own source.
            let said = error.as_database_error().map(|refusal| refusal.message().to_owned());
            return Err(unreachable(said.unwrap_or_else(|| error.to_string())));
        }
        Ok(Ok(connection)) => drop(connection.close().await),
    }
    Ok(pool(settings, options))
}

/// The same for a database that need not answer now: it connects when it is first used.
///
/// # Errors
/// [`ConnectError::BadUrl`].
pub fn connect_lazily(settings: &DatabaseSettings) -> Result<PgPool, ConnectError> {
    Ok(pool(settings, options(settings)?))
}

fn pool(settings: &DatabaseSettings, options: PgConnectOptions) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(settings.connections_max).acquire_timeout(settings.connect_timeout);
    pool.connect_lazy_with(options)
}

fn options(settings: &DatabaseSettings) -> Result<PgConnectOptions, ConnectError> {
    // sqlx would take any scheme.
    let url = settings.url.expose_secret();
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(ConnectError::BadUrl("it does not begin with postgres://".to_owned()));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| ConnectError::BadUrl(error.to_string()))?;
    // As libpq does: with a root certificate at hand, `require` means `verify-ca`. sqlx would verify nothing.
    let options = match options.get_ssl_mode() {
        PgSslMode::Require if url.contains("sslrootcert=") => options.ssl_mode(PgSslMode::VerifyCa),
        _ => options,
    };
    let timeout_ms = settings.statement_timeout.as_millis().to_string();
    let options = options.application_name("overdue").options([
        ("statement_timeout", timeout_ms.as_str()),
        // The server is to find out soon that we are gone without having said so.
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
    ]);
    Ok(options.options(settings.session.iter().copied()))
}

/// Whether the database answers.
///
/// # Errors
/// Whatever it says, or the pool.
pub async fn ping(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("select 1").execute(pool).await.map(drop)
}
