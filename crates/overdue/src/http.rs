//! The HTTP side of a process: health and metrics, and orders if it has that role.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Listener, Metrics, PoolProbe, PoolState, Readiness, Replica, Samples, Shop, Sources, Token, Vitals};
use broker::{Broker, Management};
use publisher::{PgPool, RelayCounters};
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use worker::{Gateways, OrderBook, PassiveClose};

use crate::failure::Failure;
use crate::servers;
use crate::settings::{DatabaseSettings, HttpSettings};

/// A port, and what it is for.
pub(crate) struct Http {
    listener: Listener,
    serves_orders: bool,
    token: Option<Token>,
    management: Option<Management>,
    read_database_url: Option<SecretString>,
}

/// What is served from.
pub(crate) struct Parts<'a> {
    pub(crate) database: &'a DatabaseSettings,
    pub(crate) broker: Option<Broker>,
    pub(crate) book: Option<OrderBook>,
    /// The same for orders that somebody looks at, with connections of its own.
    pub(crate) looked_at: Option<OrderBook>,
    pub(crate) gateways: Gateways,
    pub(crate) relay: Option<Arc<RelayCounters>>,
    pub(crate) shutdown: CancellationToken,
}

/// How often the servers are asked for what the metrics need of them.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// How many connections the order service has, and the looks at the database besides.
const ORDER_CONNECTIONS: u32 = 8;
const VITAL_CONNECTIONS: u32 = 2;

impl Http {
    /// Checks the settings and takes the port; `None`: there is to be no HTTP.
    pub(crate) async fn bind(settings: &HttpSettings, serves_orders: bool) -> Result<Option<Self>, Failure> {
        let Some(address) = settings.listen else {
            return if serves_orders {
                Err(Failure::settings(
                    "the role api needs --listen ADDRESS:PORT, for example 127.0.0.1:8080".to_owned(),
                ))
            } else {
                Ok(None)
            };
        };
        let token = settings.api_token.as_ref().map(Token::new).transpose().map_err(|_| {
            Failure::settings(format!("the token of the API must have {} bytes or more", Token::BYTES_MIN))
        })?;
        if serves_orders && token.is_none() && !address.ip().is_loopback() {
            return Err(Failure::settings(format!(
                "--listen {address} can be reached from other machines: set OVERDUE_API_TOKEN, or listen at 127.0.0.1"
            )));
        }
        let management = settings.management_url.as_ref().map(Management::new).transpose()?;
        let listener = Listener::bind(address)
            .await
            .map_err(|error| Failure::settings(format!("cannot listen at {address}: {error}")))?;
        let read_database_url = settings.read_database_url.clone();
        Ok(Some(Self { listener, serves_orders, token, management, read_database_url }))
    }

    /// What serves, until the program is to stop.
    pub(crate) async fn start(self, parts: Parts<'_>) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
        let Parts { database, broker, book, looked_at, gateways, relay, shutdown } = parts;
        let vital_pool = servers::migrated_database(database, VITAL_CONNECTIONS).await?;
        let samples = Arc::<Mutex<Samples>>::default();
        let mut sources =
            Sources { relay, samples: Arc::clone(&samples), version: env!("CARGO_PKG_VERSION"), ..Sources::default() };
        if let Some(book) = &book {
            sources.worker = Some(gateways.counters());
            sources.pools.push(("worker", pool_probe(book)));
        }
        let mut shop = None;
        if let (true, Some(book)) = (self.serves_orders, looked_at) {
            sources.pools.push(("passive", pool_probe(&book)));
            let pool = servers::migrated_database(database, ORDER_CONNECTIONS).await?;
            let counted = pool.clone();
            let state = move || PoolState {
                open: counted.size() as usize,
                idle: counted.num_idle(),
                max: ORDER_CONNECTIONS as usize,
            };
            sources.pools.push(("orders", Box::new(state)));
            let replica = match &self.read_database_url {
                Some(url) => {
                    let pool = servers::replica(database, url, ORDER_CONNECTIONS)?;
                    if let Err(error) = publisher::ping(&pool).await {
                        tracing::warn!(%error, "the read replica does not answer; the primary is asked until it does");
                    }
                    Some(Arc::new(Replica::of(pool)))
                }
                None => None,
            };
            let passive = PassiveClose::new(book.clone(), gateways.clone(), shutdown.clone());
            shop = Some(Shop { pool, replica, passive, book, gateways, token: self.token });
        }
        let vhost = broker.as_ref().map(|broker| broker.vhost().to_owned());
        let vitals = Vitals {
            readiness: Arc::new(Readiness::of(vital_pool.clone(), broker)),
            metrics: Arc::new(Metrics::of(sources)),
        };
        if let Ok(address) = self.listener.address() {
            tracing::info!(%address, orders = shop.is_some(), "listening");
        }
        let management = self.management.zip(vhost);
        let router = api::router(vitals, shop);
        Ok(async move {
            let sampling = sample(vital_pool, management, samples);
            tokio::select! {
                () = api::serve(self.listener, router, shutdown) => {}
                () = sampling => {}
            }
        })
    }
}

fn pool_probe(book: &OrderBook) -> PoolProbe {
    let book = book.clone();
    Box::new(move || {
        let (open, idle, max) = book.connections();
        PoolState { open, idle, max }
    })
}

/// Asks the servers now and then, for ever.
async fn sample(pool: PgPool, management: Option<(Management, String)>, samples: Arc<Mutex<Samples>>) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    loop {
        ticks.tick().await;
        let backlog = answered(publisher::backlog(&pool)).await;
        let past_deadline = answered(publisher::past_deadline(&pool)).await;
        let refunds_needing_person = answered(publisher::refunds_needing_person(&pool)).await;
        let queues = match &management {
            None => Some(Vec::new()),
            Some((management, vhost)) => management.queues(vhost).await.ok(),
        };
        let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        if backlog.is_none() || past_deadline.is_none() || refunds_needing_person.is_none() || queues.is_none() {
            samples.failures += 1;
        }
        // What cannot be asked now is not shown: an old figure would look as if all were well.
        samples.backlog = backlog;
        samples.past_deadline = past_deadline;
        samples.refunds_needing_person = refunds_needing_person;
        samples.queues = queues.unwrap_or_default();
        samples.queues.retain(|queue| queue.name.starts_with("overdue."));
    }
}

/// A server may also be silent.
async fn answered<T, E>(question: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(SAMPLE_EVERY, question).await.ok()?.ok()
}
