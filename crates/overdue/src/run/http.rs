//! The HTTP side of a process: health and metrics, and orders if it has that role.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{Listener, Metrics, OrderService, Readiness, Replica, Token, Trouble, Vitals};
use broker::{Broker, BrokerProbe, Management, Topology};
use console::Access;
use database::{Client, DatabaseUrl, Purpose, SqlxPool};
use order::Lanes;
use prometheus_client::registry::Registry;
use relay::RelayMetrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use webhook::WebhookMetrics;
use worker::{Gateways, Notifications, PassiveClose, SharedBook, SharedTimers};

use super::checks::Checks;
use super::samples::{Sampler, Samples};
use crate::doctor::Scope;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{DatabaseSettings, HttpSettings};

/// A port, and what is served there.
pub(super) struct Http {
    listener: Listener,
    address: SocketAddr,
    serves_orders: bool,
    token: Option<Token>,
    management: Option<Management>,
    read_database: Option<DatabaseUrl>,
}

/// The parts of the process that HTTP shows.
pub(super) struct Parts<'a> {
    pub(super) database: &'a DatabaseSettings,
    /// For health, and for samples.
    pub(super) vitals: Client,
    pub(super) broker: Option<Broker>,
    /// What the process needs in the broker.
    pub(super) topology: Option<Topology>,
    /// What the order service settles orders, fires timers and takes notifications with; `None`: there is none.
    pub(super) orders: Option<(PassiveClose, SharedTimers, Notifications)>,
    /// What orders are settled in, if they are here.
    pub(super) book: Option<SharedBook>,
    /// What timers are fired in, if they are here.
    pub(super) timers: Option<SharedTimers>,
    pub(super) gateways: Gateways,
    /// Whether orders are settled in this process, so that there is something to be counted.
    pub(super) settles: bool,
    pub(super) relay: Option<RelayMetrics>,
    pub(super) webhooks: Option<WebhookMetrics>,
    pub(super) samples: Samples,
    /// What the console works with; `None`: there is none.
    pub(super) console: Option<ConsoleParts<'a>>,
    pub(super) shutdown: CancellationToken,
}

/// What the console needs besides.
pub(super) struct ConsoleParts<'a> {
    pub(super) access: Access,
    pub(super) scope: Scope,
    pub(super) broker: Option<Broker>,
    pub(super) topology: Topology,
    pub(super) lanes: &'a Lanes,
    pub(super) passive: Option<PassiveClose>,
}

/// How many connections the console has, for each driver.
const CONSOLE_CONNECTIONS: usize = 2;

/// How long a statement of the console may take: somebody waits.
const CONSOLE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections the order service has.
const ORDER_CONNECTIONS: usize = 8;

impl Http {
    /// Checks the settings and takes the port; `None`: there is to be no HTTP.
    pub(super) async fn bind(
        settings: &HttpSettings,
        serves_orders: bool,
        needs_console: bool,
    ) -> Result<Option<Self>, Failure> {
        let Some(address) = settings.listen else {
            if needs_console {
                let advice =
                    "the role console needs --listen ADDRESS:PORT (OVERDUE_LISTEN), for example 127.0.0.1:8080";
                return Err(Failure::settings(advice.to_owned()));
            }
            if serves_orders {
                let advice = "the role api needs --listen ADDRESS:PORT (OVERDUE_LISTEN), for example 127.0.0.1:8080";
                return Err(Failure::settings(advice.to_owned()));
            }
            return Ok(None);
        };
        let token = settings.token()?;
        if serves_orders && token.is_none() && !address.ip().is_loopback() {
            return Err(Failure::settings(format!(
                "--listen {address} can be reached from other machines: set OVERDUE_API_TOKEN, or listen at 127.0.0.1"
            )));
        }
        let (management, read_database) = (settings.management.management()?, settings.read_database()?);
        let listener = Listener::bind(address)
            .await
            .map_err(|error| Failure::settings(format!("cannot listen at {address}: {error}")))?;
        Ok(Some(Self { listener, address, serves_orders, token, management, read_database }))
    }

    /// Who may open the console; `None`: nobody could be told from anybody else, and others than this machine can
    /// connect.
    pub(super) fn console_access(
        &self,
        settings: &HttpSettings,
        is_asked_for: bool,
    ) -> Result<Option<Access>, Failure> {
        let access = settings.console.access()?;
        // A token says that others come here, perhaps through a proxy of this machine.
        let is_for_itself = self.address.ip().is_loopback() && self.token.is_none();
        let may_be_served = access.knows_people() || is_for_itself;
        let address = self.address;
        if !may_be_served && is_asked_for {
            return Err(Failure::settings(format!(
                "--listen {address} serves others than this machine, or has a token for them: name the users of the console (OVERDUE_CONSOLE_USERS_FILE), or listen at 127.0.0.1 without a token"
            )));
        }
        if !may_be_served {
            let why = "others than this machine are served there, or have a token, and no users are named (OVERDUE_CONSOLE_USERS_FILE)";
            tracing::info!("there is no console at {address}: {why}");
        }
        Ok(may_be_served.then_some(access))
    }

    /// Serves until the program is to stop.
    pub(super) async fn start(self, parts: Parts<'_>) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
        let Parts {
            database,
            vitals: client,
            broker,
            topology,
            orders,
            book,
            timers,
            gateways,
            settles,
            relay,
            webhooks,
            mut samples,
            console,
            shutdown,
        } = parts;
        let service = match orders.filter(|_| self.serves_orders) {
            None => None,
            Some((passive, fired, notifications)) => {
                let pool = servers::pool(database, ORDER_CONNECTIONS, Purpose::Clients)?;
                let counted = pool.clone();
                samples.add_pool("orders", move || counted.state());
                let replica = self.read_database.as_ref().map(|url| replica(url, database)).transpose()?;
                let token = self.token;
                Some(OrderService {
                    pool,
                    replica,
                    passive,
                    timers: fired,
                    notifications,
                    gateways: gateways.clone(),
                    token,
                    warnings: trace::Throttle::default(),
                })
            }
        };
        let mut registry = Registry::with_prefix("overdue");
        if settles {
            gateways.metrics().register(&mut registry);
        }
        if let Some(relay) = relay {
            relay.register(&mut registry);
        }
        if let Some(webhooks) = webhooks {
            webhooks.register(&mut registry);
        }
        registry.register_collector(Box::new(samples.clone()));
        let trouble = |book: SharedBook| -> Trouble { Box::new(move || Some(book.trouble()?.0)) };
        let mut troubles: Vec<Trouble> = book.map(trouble).into_iter().collect();
        troubles.extend(timers.map(|timers| -> Trouble { Box::new(move || Some(timers.trouble()?.0)) }));
        troubles.extend(service.as_ref().map(|service| exhausted(service.pool.clone())));
        let vhost = broker.as_ref().map(|broker| broker.vhost().to_owned());
        let vitals = Vitals {
            readiness: Arc::new(Readiness::of(
                client.clone(),
                broker.zip(topology).map(|(broker, topology)| BrokerProbe::new(broker, topology)),
                troubles,
            )),
            metrics: Arc::new(Metrics::new(registry)),
        };
        if let Ok(address) = self.listener.address() {
            tracing::info!(%address, orders = service.is_some(), "listening");
        }
        let sampler = Sampler {
            pool: servers::pool(database, 1, Purpose::Shop)?,
            client,
            management: self.management.zip(vhost),
        };
        let tidying = service.as_ref().map(|service| api::delete_old_answers(service.pool.clone(), shutdown.clone()));
        let begun = TaskTracker::new();
        let pages = console.map(|console| pages(console, database, &begun, &shutdown)).transpose()?;
        let router = api::router(vitals, service, pages);
        Ok(async move {
            let tidy = async move {
                match tidying {
                    Some(tidying) => tidying.await,
                    None => std::future::pending().await,
                }
            };
            let served = api::serve(self.listener, router, shutdown);
            tokio::pin!(served);
            let is_over = tokio::select! {
                () = &mut served => true,
                () = sampler.run(samples) => false,
                () = tidy => false,
            };
            if !is_over {
                served.await;
            }
            // What operators have begun ends soon, now that the process is to stop.
            begun.close();
            begun.wait().await;
        })
    }
}

/// The console.
fn pages(
    parts: ConsoleParts<'_>,
    database: &DatabaseSettings,
    begun: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<api::Router, Failure> {
    let ConsoleParts { access, scope, broker, topology, lanes, passive } = parts;
    let bounded = database.within(CONSOLE_STATEMENT_TIMEOUT);
    let management = scope.management.management()?.zip(broker.as_ref().map(|broker| broker.vhost().to_owned()));
    Ok(console::router(console::Parts {
        client: servers::client(&bounded, CONSOLE_CONNECTIONS, Purpose::Shop)?,
        pool: servers::pool(&bounded, CONSOLE_CONNECTIONS, Purpose::Clients)?,
        confirm_timeout: scope.broker.confirm_timeout(),
        broker,
        topology,
        management,
        passive,
        lanes: lanes.clone(),
        checks: Arc::new(Checks(scope)),
        access,
        tasks: begun.clone(),
        shutdown: shutdown.clone(),
    }))
}

/// A pool that was exhausted at the look before, too, is no mere moment of many requests.
fn exhausted(pool: SqlxPool) -> Trouble {
    let before = AtomicBool::new(false);
    Box::new(move || {
        let is = pool.state().is_exhausted();
        let was = before.swap(is, Ordering::Relaxed);
        (is && was).then(|| "all connections for requests are in use, and requests wait for them".to_owned())
    })
}

fn replica(url: &DatabaseUrl, settings: &DatabaseSettings) -> Result<Arc<Replica>, Failure> {
    let pool = servers::pool_at(url, settings, ORDER_CONNECTIONS, Purpose::Replica)?;
    Ok(Arc::new(Replica::of(pool)))
}
