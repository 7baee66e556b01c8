//! From settings to servers that answer.

use broker::Broker;
use database::{Client, DatabaseUrl, PoolSettings, Purpose, SqlxConnection, SqlxPool};

use crate::failure::{Failure, Kind};
use crate::settings::{BrokerSettings, DatabaseSettings};

/// A connection to a database that answers.
pub(crate) async fn database(settings: &DatabaseSettings) -> Result<SqlxConnection, Failure> {
    probe(settings).await?;
    Ok(pool(settings, 1, Purpose::Shop)?.get().await?)
}

/// A connection to a database that has the schema that we need.
pub(crate) async fn migrated_database(settings: &DatabaseSettings) -> Result<SqlxConnection, Failure> {
    let mut connection = database(settings).await?;
    database::check(&mut connection).await?;
    Ok(connection)
}

/// Connections of sqlx to a database that has the schema that we need. The one that found this out waits among them.
pub(crate) async fn migrated_pool(
    settings: &DatabaseSettings,
    connections_max: usize,
    purpose: Purpose,
) -> Result<SqlxPool, Failure> {
    probe(settings).await?;
    let pool = pool(settings, connections_max, purpose)?;
    database::check(&mut *pool.get().await?).await?;
    Ok(pool)
}

/// The stricter of the two drivers first: sqlx trusts the system's authorities, too, where others are named.
async fn probe(settings: &DatabaseSettings) -> Result<(), Failure> {
    Ok(client(settings, 1, Purpose::Shop)?.probe().await?)
}

/// Connections of sqlx. They are made when they are first used.
pub(crate) fn pool(settings: &DatabaseSettings, connections_max: usize, purpose: Purpose) -> Result<SqlxPool, Failure> {
    pool_at(&settings.url()?, settings, connections_max, purpose)
}

/// Connections of sqlx to another server with otherwise the same settings.
pub(crate) fn pool_at(
    url: &DatabaseUrl,
    settings: &DatabaseSettings,
    connections_max: usize,
    purpose: Purpose,
) -> Result<SqlxPool, Failure> {
    Ok(SqlxPool::new(url, &bounds(settings, connections_max, purpose))?)
}

/// Connections of tokio-postgres. They are made when they are first used.
pub(crate) fn client(settings: &DatabaseSettings, connections_max: usize, purpose: Purpose) -> Result<Client, Failure> {
    Ok(Client::new(&settings.url()?, &bounds(settings, connections_max, purpose))?)
}

/// Fails unless the columns of orders, items and stock are of types that can be worked with. The tables may be the shop's own.
pub(crate) async fn check_columns(client: &Client) -> Result<(), Failure> {
    let unfit = book::unfit_columns(client).await?;
    if unfit.is_empty() {
        return Ok(());
    }
    let error = anyhow::anyhow!("{}; docs/contract.md says what the columns must be", unfit.join("; "));
    Err(Failure::new(Kind::Mismatch, error))
}

fn bounds(settings: &DatabaseSettings, connections_max: usize, purpose: Purpose) -> PoolSettings {
    PoolSettings { connections_max, statement_timeout: settings.statement_timeout.0, purpose }
}

/// A broker that answers.
pub(crate) async fn broker(settings: &BrokerSettings, name: &str) -> Result<Broker, Failure> {
    let broker = unprobed_broker(settings, name)?;
    broker.probe().await?;
    Ok(broker)
}

/// A broker that need not answer.
pub(crate) fn unprobed_broker(settings: &BrokerSettings, name: &str) -> Result<Broker, Failure> {
    let (url, ca_file, name) = (settings.url()?, settings.amqp_ca_file.clone(), format!("overdue {name}"));
    Ok(Broker::new(&broker::BrokerSettings { url, ca_file, name })?)
}
