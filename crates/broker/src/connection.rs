use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::BrokerError;

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS.
    pub url: SecretString,
    /// Certificates (PEM) of the authorities that may sign the broker's, besides the system's.
    pub ca_pem: Option<String>,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout: Duration,
    /// What connections are called in RabbitMQ's listings, for example `overdue-worker`.
    pub name: String,
}

/// A broker that can be connected to, any number of times.
#[derive(Clone)]
pub struct Broker {
    uri: AMQPUri,
    ca_pem: Option<String>,
    connect_timeout: Duration,
    name: String,
    address: String,
}

/// Seconds without a sign of life after which both sides give a connection up. RabbitMQ's default of 60 is
/// long for orders that fall due every second; values below 5 are known for false alarms
/// (<https://www.rabbitmq.com/docs/heartbeats>).
const HEARTBEAT_S: u16 = 15;

impl Broker {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(settings: &BrokerSettings) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = settings.url.expose_secret().parse().map_err(BrokerError::BadUrl)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let address = format!("{}:{}", uri.authority.host, uri.authority.port);
        Ok(Self {
            uri,
            ca_pem: settings.ca_pem.clone(),
            connect_timeout: settings.connect_timeout,
            name: settings.name.clone(),
            address,
        })
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

    /// Opens a connection. It does not recover by itself: whoever owns it opens another when it breaks, and
    /// with it new channels, so that no delivery tag of an old channel can meet a new one.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} {purpose}", self.name).into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.ca_pem.clone() };
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.error(&error))?;
        let connecting = Connection::connect_uri_with_config(self.uri.clone(), properties, tls, runtime);
        timeout(self.connect_timeout, connecting)
            .await
            .map_err(|_| BrokerError::Timeout {
                address: self.address.clone(),
                timeout_ms: self.connect_timeout.as_millis(),
            })?
            .map_err(|error| self.error(&error))
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
        timeout(self.connect_timeout, connection.create_channel())
            .await
            .map_err(|_| BrokerError::Timeout {
                address: self.address.clone(),
                timeout_ms: self.connect_timeout.as_millis(),
            })?
            .map_err(|error| self.error(&error))
    }

    pub(crate) fn error(&self, error: &lapin::Error) -> BrokerError {
        BrokerError::from_lapin(error, &self.address)
    }
}

/// Hangs up politely, but does not wait for long: the connection may be dead already.
pub(crate) async fn close(connection: &Connection) {
    let _ = timeout(Duration::from_secs(2), connection.close(200, "OK".into())).await;
}
