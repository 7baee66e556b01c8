use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::BrokerError;
use crate::amqp_url::AmqpUrl;
use crate::guarded_stream::{self, GuardedRuntime, guarded_runtime};

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Certificates are query parameters, as in RabbitMQ's
    /// own clients: `cacertfile`, `certfile`, `keyfile`.
    pub url: SecretString,
    /// Certificates (PEM) of authorities that may sign the broker's, in addition to the system's and to `cacertfile`.
    pub ca_file: Option<PathBuf>,
    /// The name of connections in RabbitMQ's listings, for example `overdue-worker`.
    pub name: String,
}

/// A broker that can be connected to, any number of times.
#[derive(Clone)]
pub struct Broker {
    uri: AMQPUri,
    tls: Tls,
    connect_timeout: Duration,
    name: String,
    address: String,
}

/// What TLS needs, read from files.
#[derive(Clone, Default)]
struct Tls {
    ca_pem: Option<String>,
    /// Certificate and private key, both PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// How long connecting may take, TLS and login included, unless the URL says `connection_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds without a sign of life after which both sides give a connection up. RabbitMQ's default of 60 is
/// long for orders that fall due every second; values below 5 are known for false alarms
/// (<https://www.rabbitmq.com/docs/heartbeats>).
const HEARTBEAT_S: u16 = 15;

/// The AMQP library sets aside 64 times the largest frame for each connection. With RabbitMQ's 128 KiB that is 8 MB; a frame of ours has
/// some kilobytes, and a larger body comes in several.
const FRAME_BYTES_SMALL: u32 = 32 * 1024;

impl Broker {
    /// Checks the settings and reads the certificates; connects to nothing yet.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`], [`BrokerError::BadCertificates`].
    pub fn new(settings: &BrokerSettings) -> Result<Self, BrokerError> {
        let AmqpUrl { mut uri, ca_file, identity_files, connect_timeout } =
            settings.url.expose_secret().parse().map_err(BrokerError::BadUrl)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let mut tls = Tls::default();
        for file in [&ca_file, &settings.ca_file].into_iter().flatten() {
            let pem = String::from_utf8(read(file)?).map_err(|_| bad(file, "it is not in PEM form"))?;
            let all = tls.ca_pem.get_or_insert_default();
            all.push_str(&pem);
            // The next file begins on a line of its own.
            all.push('\n');
        }
        if let Some((certificate, key)) = identity_files {
            tls.identity = Some((read(&certificate)?, read(&key)?));
        }
        let host = &uri.authority.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let address = format!("{host}:{}", uri.authority.port);
        let connect_timeout = connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        Ok(Self { uri, tls, connect_timeout, name: settings.name.clone(), address })
    }

    /// The virtual host that the URL names.
    #[must_use]
    pub fn vhost(&self) -> &str {
        self.uri.vhost.as_str()
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let host = &self.uri.authority.host;
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Opens a connection that receives, declares and asks. It does not recover by itself: its owner opens another when it
    /// breaks, and with it new channels, so that no delivery tag of an old channel can meet a new one.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let mut uri = self.uri.clone();
        uri.query.frame_max.get_or_insert(FRAME_BYTES_SMALL);
        self.connect_with(uri, purpose).await
    }

    /// Opens a connection that publishes. The headers of a message that is sent on as it came must fit in a frame of it.
    pub(crate) async fn connect_to_publish(&self, purpose: &str) -> Result<Connection, BrokerError> {
        self.connect_with(self.uri.clone(), purpose).await
    }

    async fn connect_with(&self, uri: AMQPUri, purpose: &str) -> Result<Connection, BrokerError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} {purpose}", self.name).into());
        let identity = self.tls.identity.clone().map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key });
        let tls = OwnedTLSConfig { identity, cert_chain: self.tls.ca_pem.clone() };
        // What a message is made to fit, whose properties cannot be read, is a frame of those who publish it again.
        let frame_bytes_max = self.uri.query.frame_max.unwrap_or(0);
        let dial = async move |uri: AMQPUri, _: GuardedRuntime| {
            Ok(guarded_stream::connect(&uri, &tls, frame_bytes_max).await?)
        };
        self.in_time(Connection::connector(uri, guarded_runtime(), dial, properties)).await
    }

    /// Connects, opens a channel and hangs up again: tells whether the broker can be used.
    ///
    /// # Errors
    /// [`BrokerError`] says why not.
    pub async fn probe(&self) -> Result<(), BrokerError> {
        let connection = self.connect("probe").await?;
        self.channel(&connection).await?;
        close(&connection).await;
        Ok(())
    }

    pub(crate) async fn channel(&self, connection: &Connection) -> Result<Channel, BrokerError> {
        self.in_time(connection.create_channel()).await
    }

    async fn in_time<T>(&self, step: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, BrokerError> {
        match timeout(self.connect_timeout, step).await {
            Ok(done) => done.map_err(|error| self.error(&error)),
            Err(_) => Err(BrokerError::Timeout {
                address: self.address.clone(),
                timeout_ms: self.connect_timeout.as_millis(),
            }),
        }
    }

    pub(crate) fn error(&self, error: &lapin::Error) -> BrokerError {
        BrokerError::from_lapin(error, &self.address)
    }
}

/// Hangs up politely, but does not wait for long: the connection may be dead already.
pub(crate) async fn close(connection: &Connection) {
    let _ = timeout(Duration::from_secs(2), connection.close(200, "OK".into())).await;
}

fn read(file: &Path) -> Result<Vec<u8>, BrokerError> {
    std::fs::read(file).map_err(|error| bad(file, &error.to_string()))
}

fn bad(file: &Path, reason: &str) -> BrokerError {
    BrokerError::BadCertificates { path: file.display().to_string(), reason: reason.to_owned() }
}
