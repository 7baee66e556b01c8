//! Connections of tokio-postgres, with the statement cache of deadpool-postgres.

use std::error::Error as _;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use secrecy::ExposeSecret;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Error, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use trace::causes;

use crate::DatabaseError;
use crate::dial::{Attempt, Dial, Driver, Setback};
use crate::host::HostName;
use crate::probed::Probed;
use crate::tls::Verify;

/// Makes connections, and looks at each before it is handed out again.
pub(crate) struct TokioManager {
    dial: Dial,
    /// What the attempts with TLS need, by how much they verify.
    tls: Vec<(Verify, MakeRustlsConnect)>,
}

impl TokioManager {
    pub(crate) fn new(dial: Dial) -> Result<Self, DatabaseError> {
        let mut tls: Vec<(Verify, MakeRustlsConnect)> = Vec::new();
        for verify in dial.attempts.iter().filter_map(|attempt| attempt.tls) {
            if tls.iter().all(|(known, _)| *known != verify) {
                tls.push((verify, MakeRustlsConnect::new(dial.certificates.client_config(verify)?)));
            }
        }
        Ok(Self { dial, tls })
    }

    fn config(&self, attempt: &Attempt, ssl_mode: SslMode) -> Config {
        let mut config = Config::new();
        match &attempt.name {
            HostName::Tcp(name) => config.host(name),
            HostName::Unix(directory) => config.host_path(directory),
        };
        config.port(attempt.port).user(&self.dial.user).dbname(&self.dial.database).ssl_mode(ssl_mode);
        if let Some(password) = &attempt.password {
            config.password(password.expose_secret());
        }
        config
            .options(options(&self.dial.settings))
            .application_name(&self.dial.application_name)
            // The driver's own keep-alive of two hours would leave a worker waiting that long for a dead host.
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(30));
        config
    }

    async fn is_read_only(&self, client: &ClientWrapper) -> Result<bool, Error> {
        let answer = client.simple_query(self.dial.read_only).await?;
        let on =
            |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on"));
        Ok(answer.iter().any(on))
    }
}

impl Driver for TokioManager {
    type Connection = ClientWrapper;

    async fn open(&self, attempt: &Attempt) -> Result<ClientWrapper, Setback> {
        let tls = attempt.tls.and_then(|wanted| self.tls.iter().find(|(verify, _)| *verify == wanted));
        let connecting = async {
            let client = match tls {
                Some((_, tls)) => open(&self.config(attempt, SslMode::Require), tls.clone()).await?,
                None => open(&self.config(attempt, SslMode::Disable), NoTls).await?,
            };
            let read_only = self.is_read_only(&client).await?;
            Ok((client, read_only))
        };
        let limit = self.dial.connect_timeout;
        match tokio::time::timeout(limit, connecting).await {
            Err(_) => Err(Setback::silent(limit)),
            Ok(Err(error)) => Err(setback(&error)),
            Ok(Ok((client, read_only))) if self.dial.target.is(read_only) => Ok(client),
            Ok(Ok(_)) => Err(Setback::wrong_target(self.dial.target)),
        }
    }
}

impl Manager for TokioManager {
    type Type = Probed<ClientWrapper>;
    type Error = DatabaseError;

    async fn create(&self) -> Result<Probed<ClientWrapper>, DatabaseError> {
        self.dial.connect(self).await.map(Probed::now)
    }

    async fn recycle(&self, client: &mut Probed<ClientWrapper>, _: &Metrics) -> RecycleResult<DatabaseError> {
        if client.is_fresh() && !client.is_closed() {
            return Ok(());
        }
        match self.is_read_only(client).await {
            Ok(read_only) if self.dial.target.is(read_only) => client.probed(),
            Ok(_) => Err(RecycleError::message("the server is not of the kind that it was")),
            Err(error) => Err(RecycleError::message(causes(&error))),
        }
    }
}

async fn open<T>(config: &Config, tls: T) -> Result<ClientWrapper, Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as tokio_postgres::tls::TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    // Its end shows in the calls that it breaks.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok(ClientWrapper::new(client, task))
}

fn setback(error: &Error) -> Setback {
    let by_rule = error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    // With TLS 1.3 a server may refuse our certificate after the handshake.
    let by_alert = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData);
    let by_tls = by_alert || error.to_string().starts_with("error performing TLS handshake");
    let reason = error.as_db_error().map_or_else(|| causes(error), |refusal| refusal.message().to_owned());
    Setback { refused: by_rule || by_tls, reason }
}

/// In the form of libpq's `options`, in which a backslash escapes blanks and backslashes.
fn options(settings: &[(String, String)]) -> String {
    let options: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("-c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ ")))
        .collect();
    options.join(" ")
}
