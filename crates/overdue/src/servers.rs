//! From settings to servers that answer.

use std::time::Duration;

use broker::Broker;
use publisher::PgPool;
use secrecy::SecretString;
use worker::Purpose;

use crate::failure::Failure;
use crate::settings::{BrokerSettings, DatabaseSettings};

/// A pool for the publisher's side.
pub(crate) async fn database(settings: &DatabaseSettings, connections_max: u32) -> Result<PgPool, Failure> {
    connect(settings, connections_max, &[]).await
}

/// A pool for a relay, with a schema that is the one we need.
pub(crate) async fn relay_database(settings: &DatabaseSettings) -> Result<PgPool, Failure> {
    let pool = connect(settings, publisher::RELAY_CONNECTIONS, publisher::RELAY_SESSION).await?;
    publisher::check(&pool).await?;
    Ok(pool)
}

/// A pool for reading from a replica, which need not answer now.
pub(crate) fn replica(
    settings: &DatabaseSettings,
    url: &SecretString,
    connections_max: u32,
) -> Result<PgPool, Failure> {
    let settings = publisher_settings(settings, connections_max, &[("default_transaction_read_only", "on")]);
    Ok(publisher::connect_lazily(&publisher::DatabaseSettings { url: url.clone(), ..settings })?)
}

async fn connect(
    settings: &DatabaseSettings,
    connections_max: u32,
    session: &'static [(&'static str, &'static str)],
) -> Result<PgPool, Failure> {
    Ok(publisher::connect(&publisher_settings(settings, connections_max, session)).await?)
}

fn publisher_settings(
    settings: &DatabaseSettings,
    connections_max: u32,
    session: &'static [(&'static str, &'static str)],
) -> publisher::DatabaseSettings {
    publisher::DatabaseSettings {
        url: settings.database_url.clone(),
        connections_max,
        connect_timeout: settings.database_connect_timeout,
        statement_timeout: settings.statement_timeout,
        session,
    }
}

/// The same with a schema that is the one we need.
pub(crate) async fn migrated_database(settings: &DatabaseSettings, connections_max: u32) -> Result<PgPool, Failure> {
    let pool = database(settings, connections_max).await?;
    publisher::check(&pool).await?;
    Ok(pool)
}

/// A pool for the worker's side. It connects when it is first used.
pub(crate) fn worker_database(
    settings: &DatabaseSettings,
    connections_max: usize,
    purpose: Purpose,
) -> Result<worker::Pool, Failure> {
    Ok(worker::connect(&worker::DatabaseSettings {
        url: settings.database_url.clone(),
        connections_max,
        connect_timeout: settings.database_connect_timeout,
        statement_timeout: settings.statement_timeout,
        purpose,
    })?)
}

/// A broker that answers.
pub(crate) async fn broker(settings: &BrokerSettings, name: &str) -> Result<Broker, Failure> {
    let url = settings.amqp_url.clone();
    let url = url.ok_or_else(|| Failure::settings("--amqp-url (OVERDUE_AMQP_URL) is needed for this".to_owned()))?;
    let broker = Broker::new(&broker::BrokerSettings {
        url,
        ca_file: settings.amqp_ca_file.clone(),
        name: format!("overdue {name}"),
    })?;
    broker.probe().await?;
    Ok(broker)
}

/// A duration as a whole number of milliseconds, for logs and tables.
pub(crate) fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}
