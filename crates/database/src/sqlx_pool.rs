//! Connections of sqlx.

use std::io::ErrorKind;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, PgConnection};
use trace::causes;

use crate::DatabaseError;
use crate::dial::{Attempt, Dial, Driver, Setback};
use crate::host::HostName;
use crate::probed::Probed;
use crate::tls::Verify;

/// Makes connections, and looks at each before it is handed out again.
pub(crate) struct SqlxManager {
    dial: Dial,
}

impl SqlxManager {
    pub(crate) fn new(dial: Dial) -> Result<Self, DatabaseError> {
        // sqlx reads the certificates itself, each time that it connects. Here it is found out at once whether it can.
        for verify in dial.attempts.iter().filter_map(|attempt| attempt.tls) {
            dial.certificates.client_config(verify)?;
        }
        Ok(Self { dial })
    }

    fn options(&self, attempt: &Attempt) -> PgConnectOptions {
        let Dial { user, database, application_name, certificates, settings, .. } = &self.dial;
        // It begins with what the environment says; everything that matters is set after that.
        let options = PgConnectOptions::new_without_pgpass().port(attempt.port).username(user).database(database);
        let options = match &attempt.name {
            HostName::Tcp(name) => options.host(name),
            HostName::Unix(directory) => options.socket(directory),
        };
        let options = match &attempt.password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        };
        let options = options.application_name(application_name).ssl_mode(match attempt.tls {
            None => PgSslMode::Disable,
            Some(Verify::Nothing) => PgSslMode::Require,
            Some(Verify::Authority) => PgSslMode::VerifyCa,
            Some(Verify::AuthorityAndName) => PgSslMode::VerifyFull,
        });
        let root = certificates.root.as_ref().map_or_else(Vec::new, |root| root.bytes.clone());
        let options = options.ssl_root_cert_from_pem(root);
        let options = match &certificates.identity {
            Some((certificate, key)) => {
                options.ssl_client_cert_from_pem(&certificate.bytes).ssl_client_key_from_pem(&key.bytes)
            }
            None => options,
        };
        options.options(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    async fn is_read_only(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let read_only: String = sqlx::query_scalar(self.dial.read_only).fetch_one(connection).await?;
        Ok(read_only == "on")
    }
}

impl Driver for SqlxManager {
    type Connection = PgConnection;

    async fn open(&self, attempt: &Attempt) -> Result<PgConnection, Setback> {
        let limit = self.dial.connect_timeout;
        let options = self.options(attempt);
        let connecting = async {
            let mut connection = options.connect().await?;
            let read_only = self.is_read_only(&mut connection).await?;
            Ok((connection, read_only))
        };
        match tokio::time::timeout(limit, connecting).await {
            Err(_) => Err(Setback::silent(limit)),
            Ok(Err(error)) => Err(setback(&error)),
            Ok(Ok((connection, read_only))) if self.dial.target.is(read_only) => Ok(connection),
            Ok(Ok(_)) => Err(Setback::wrong_target(self.dial.target)),
        }
    }
}

impl Manager for SqlxManager {
    type Type = Probed<PgConnection>;
    type Error = DatabaseError;

    async fn create(&self) -> Result<Probed<PgConnection>, DatabaseError> {
        self.dial.connect(self).await.map(Probed::now)
    }

    async fn recycle(&self, connection: &mut Probed<PgConnection>, _: &Metrics) -> RecycleResult<DatabaseError> {
        if connection.is_fresh() {
            return Ok(());
        }
        match self.is_read_only(connection).await {
            Ok(read_only) if self.dial.target.is(read_only) => connection.probed(),
            Ok(_) => Err(RecycleError::message("the server is not of the kind that it was")),
            Err(error) => Err(RecycleError::message(causes(&error))),
        }
    }
}

fn setback(error: &sqlx::Error) -> Setback {
    let refused = match error {
        sqlx::Error::Tls(_) => true,
        // What rustls says of a handshake, or a server that hangs up in it.
        sqlx::Error::Io(io) => matches!(
            io.kind(),
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        sqlx::Error::Database(refusal) => refusal.code().as_deref() == Some("28000"),
        _ => false,
    };
    // Without what sqlx adds to a refusal: a line of PostgreSQL's own source.
    let reason = error.as_database_error().map_or_else(|| causes(error), |refusal| refusal.message().to_owned());
    Setback { refused, reason }
}
