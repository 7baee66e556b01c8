use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use book::{ParkedTable, PostgresBook, Refunds, StoppedEndpoints, Timers, Trades, Trail};
use broker::Broker;
use database::{Client, Purpose, SqlxPool};
use order::Lanes;
use relay::{Relay, RelayMetrics};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use webhook::{Endpoint, EndpointStates, WebhookMetrics, Webhooks};
use worker::{
    Attendant, Commander, Gateways, Notifications, PassiveClose, PipelineSettings, Refunder, SharedBook, SharedTimers,
    Sweep, Worker, WorkerMetrics,
};

use super::heartbeat::{self, Beating, Told, Writing};
use super::http::{ConsoleParts, Http, Parts};
use super::report;
use super::samples::Samples;
use super::tidy;
use crate::doctor::Scope;
use crate::failure::{Failure, Kind};
use crate::gateways::{agree, gateways};
use crate::servers;
use crate::settings::{DatabaseSettings, HttpSettings, LaneSettings, Role, RoleSettings, WebhookSettings, topology};

/// Roles at work in this process.
pub(crate) struct Roles {
    pub(crate) names: Vec<&'static str>,
    /// The payment gateways that are set up.
    pub(crate) gateways: Vec<String>,
    tasks: JoinSet<Result<(), anyhow::Error>>,
    relay: Option<RelayMetrics>,
    pub(crate) worker: Option<WorkerMetrics>,
    webhooks: Option<WebhookMetrics>,
    endpoints: EndpointStates,
    heartbeat: Option<Beating>,
    trail: Option<Writing>,
    tidying: Option<AbortOnDropHandle<()>>,
    shutdown: CancellationToken,
}

/// What orders are settled in, and timers fired.
#[derive(Clone)]
struct Books {
    client: Client,
    orders: SharedBook,
    timers: SharedTimers,
}

/// How many connections there are for looking at which endpoints are stopped.
const WEBHOOK_CONNECTIONS: usize = 1;

/// How many connections there are for writing down the way of orders, and for deleting what is too old of it.
const TRAIL_CONNECTIONS: usize = 1;

/// How many connections there are for heartbeats, health and samples.
const VITAL_CONNECTIONS: usize = 2;

/// How many connections there are for orders that clients look at over HTTP.
const PASSIVE_CONNECTIONS: usize = 8;

impl Roles {
    /// Checks that the servers answer and are as they must be, then starts the roles (`only`: none means all).
    pub(crate) async fn start(
        only: &[Role],
        settings: &RoleSettings,
        http: &HttpSettings,
        lane_settings: &LaneSettings,
        shutdown: &CancellationToken,
    ) -> Result<Self, Failure> {
        let lanes = lane_settings.lanes();
        let wanted = |role| match only {
            [] => match role {
                Role::Api | Role::Console => http.listen.is_some(),
                Role::Webhooks => settings.webhooks.webhooks.is_some(),
                _ => true,
            },
            only => only.contains(&role),
        };
        // Before anything is connected to: settings that cannot be used are found at once.
        let settles = [Role::Worker, Role::Sweep, Role::Api].into_iter().any(wanted);
        let gateways = if settles { gateways(&settings.gateways)? } else { Gateways::none() };
        let endpoints = if wanted(Role::Webhooks) { endpoints(&settings.webhooks)? } else { Vec::new() };
        let http_settings = http;
        let http = Http::bind(http, wanted(Role::Api), wanted(Role::Console) && !only.is_empty()).await?;
        let access = match http.as_ref().filter(|_| wanted(Role::Console)) {
            Some(http) => http.console_access(http_settings, only.contains(&Role::Console))?,
            None => None,
        };
        // Whether it delivers to them or not, the console shows the endpoints' queues.
        let shown = access.as_ref().map(|_| settings.webhooks.topology(&lanes)).transpose()?;
        // Whatever the roles are, the database is looked at through the relay's connections: then its first is there
        // already.
        let relay_pool = servers::migrated_pool(&settings.database, Relay::CONNECTIONS, Purpose::Relay).await?;
        if settles {
            let client = servers::client(&settings.database, 1, Purpose::Shop)?;
            agree(&gateways, &settings.gateways, &client, wanted(Role::Worker) || wanted(Role::Sweep)).await?;
        }
        let topology = topology(&lanes, &endpoints);
        // Sweep and HTTP work without a broker.
        let broker = if [Role::Relay, Role::Worker, Role::Webhooks].into_iter().any(wanted) {
            let broker = servers::broker(&settings.broker, "run").await?;
            broker::check_presence(&topology, &broker).await?;
            Some(broker)
        } else {
            None
        };
        // The console works without a broker, and says so.
        let console_broker = match &broker {
            Some(broker) => Some(broker.clone()),
            None if settings.broker.is_set() => Some(servers::unprobed_broker(&settings.broker, "console")?),
            None => None,
        };
        let mut roles = Self {
            names: Vec::new(),
            gateways: gateways.names(),
            tasks: JoinSet::new(),
            relay: None,
            worker: settles.then(|| gateways.metrics()),
            webhooks: None,
            endpoints: EndpointStates::default(),
            heartbeat: None,
            trail: None,
            tidying: None,
            shutdown: shutdown.clone(),
        };
        let vitals = servers::client(&settings.database, VITAL_CONNECTIONS, Purpose::Shop)?;
        let console_lanes = lanes.clone();
        let mut samples = Samples::default();
        let mut shared: Option<Books> = None;
        if let (true, Some(broker)) = (wanted(Role::Relay), &broker) {
            roles.start_relay(settings, relay_pool, broker.clone(), lanes.clone());
        }
        if let (true, Some(broker)) = (wanted(Role::Webhooks), &broker) {
            let trail = gateways.trail();
            roles.start_webhooks(settings, endpoints, broker.clone(), lanes.clone(), trail)?;
        }
        if wanted(Role::Worker) || wanted(Role::Sweep) {
            let PipelineSettings { pipelines, gateway_pipelines, timer_pipelines, .. } = settings.pipelines();
            let pipelines = [pipelines, gateway_pipelines, timer_pipelines];
            let pipelines: usize = pipelines.map(|count| count.max(lanes.shards().count())).iter().sum();
            // One for each pipeline, the refunds, parked messages and commands; for the sweep two, which asks gateways
            // beside its rounds.
            let connections = [(Role::Worker, pipelines + 3), (Role::Sweep, 2)];
            let connections = connections.iter().filter(|(role, _)| wanted(*role)).map(|(_, count)| count).sum();
            let client = client(&settings.database, connections, "worker", &mut samples)?;
            servers::check_columns(&client).await?;
            let kinds = settings.timers.kinds.expected();
            let timers = SharedTimers::new(Timers::new(client.clone()), kinds, gateways.metrics(), shutdown.clone());
            let books = Books { orders: book(&client, None), timers, client };
            shared = Some(books.clone());
            if let (true, Some(broker)) = (wanted(Role::Worker), &broker) {
                roles.start_worker(settings, broker.clone(), books.clone(), lanes, &gateways);
            }
            if wanted(Role::Sweep) {
                roles.start_sweep(settings, books, &gateways);
            }
        }
        if let Some(http) = http {
            let mut orders = None;
            if wanted(Role::Api) {
                roles.names.push("api");
                // Apart, so that many clients who look at orders leave the pipelines their connections.
                let client = client(&settings.database, PASSIVE_CONNECTIONS, "passive", &mut samples)?;
                if shared.is_none() {
                    servers::check_columns(&client).await?;
                }
                let book = book(&client, shared.as_ref().map(|books| &books.orders));
                let table = Timers::new(client.clone());
                let timers = match &shared {
                    Some(known) => known.timers.through(table),
                    None => {
                        let kinds = settings.timers.kinds.expected();
                        SharedTimers::new(table, kinds, gateways.metrics(), shutdown.clone())
                    }
                };
                let books = Books { orders: book.clone(), timers: timers.clone(), client: client.clone() };
                shared.get_or_insert(books);
                let passive = PassiveClose::new(&book, &gateways, shutdown.clone());
                let (trades, refunds) = (Trades::new(client.clone()), Refunds::new(client));
                orders = Some((passive, timers, Notifications::new(gateways.clone(), book, trades, refunds)));
            }
            let console = access.zip(shown).map(|(access, topology)| {
                roles.names.push("console");
                let scope = Scope {
                    database: settings.database.clone(),
                    broker: settings.broker.clone(),
                    lanes: lane_settings.clone(),
                    webhooks: settings.webhooks.clone(),
                    management: http_settings.management.clone(),
                    gateways: settings.gateways.clone(),
                };
                let passive = orders.as_ref().map(|(passive, ..)| passive.clone());
                ConsoleParts { access, scope, broker: console_broker, topology, lanes: &console_lanes, passive }
            });
            let parts = Parts {
                database: &settings.database,
                vitals: vitals.clone(),
                topology: broker.as_ref().map(|_| topology),
                broker,
                orders,
                timers: shared.as_ref().map(|books| books.timers.clone()),
                book: shared.map(|books| books.orders),
                gateways: gateways.clone(),
                settles,
                relay: roles.relay.clone(),
                webhooks: roles.webhooks.clone(),
                samples,
                console,
                shutdown: shutdown.clone(),
            };
            roles.spawn(http.start(parts).await?);
        }
        // Apart: whatever becomes of it, the process can still say that it is at work. It waits for no lock, and reads
        // no table as a whole.
        let trail = servers::client(&settings.database, TRAIL_CONNECTIONS, Purpose::Settle)?;
        if let Some(writer) = gateways.trail().writer(trail.clone()) {
            roles.trail = Some(Writing::begin(writer));
        }
        roles.tidying = roles.worker.clone().filter(|_| wanted(Role::Sweep)).map(|leads| tidy::begin(trail, leads));
        let told = Told {
            roles: roles.names.iter().map(|role| (*role).to_owned()).collect(),
            relay: roles.relay.clone(),
            worker: roles.worker.clone(),
            gateways,
            endpoints: roles.endpoints.clone(),
        };
        roles.heartbeat = Some(heartbeat::begin(vitals, told));
        Ok(roles)
    }

    fn start_relay(&mut self, settings: &RoleSettings, pool: SqlxPool, broker: Broker, lanes: Lanes) {
        let relay = Relay::new(pool, broker, lanes, settings.relay());
        self.names.push("relay");
        self.relay = Some(relay.metrics());
        self.spawn(relay.run(self.shutdown.clone()));
    }

    fn start_webhooks(
        &mut self,
        settings: &RoleSettings,
        endpoints: Vec<Endpoint>,
        broker: Broker,
        lanes: Lanes,
        trail: Trail,
    ) -> Result<(), Failure> {
        self.names.push("webhooks");
        let store = StoppedEndpoints::new(servers::client(&settings.database, WEBHOOK_CONNECTIONS, Purpose::Shop)?);
        let confirm_timeout = settings.broker.confirm_timeout();
        let names: Vec<String> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        let webhooks = Webhooks::new(broker, endpoints, lanes, store, confirm_timeout).map_err(Failure::settings)?;
        let webhooks = webhooks.telling(trail);
        let webhooks = match settings.tuning.probe_every {
            Some(probe_every) => webhooks.probing_every(probe_every.0),
            None => webhooks,
        };
        tracing::info!(endpoints = names.join(" "), "delivering to endpoints");
        self.webhooks = Some(webhooks.metrics());
        self.endpoints = webhooks.states();
        self.spawn(webhooks.run(self.shutdown.clone()));
        Ok(())
    }

    fn start_worker(
        &mut self,
        settings: &RoleSettings,
        broker: Broker,
        books: Books,
        lanes: Lanes,
        gateways: &Gateways,
    ) {
        self.names.push("worker");
        let Books { client, orders, timers } = books;
        let parked = broker.clone();
        let confirm_timeout = settings.broker.confirm_timeout();
        self.spawn(Commander::new(broker.clone(), timers.clone(), confirm_timeout, self.shutdown.clone()).run());
        let worker = Worker::new(broker, orders, timers, lanes, gateways.clone(), settings.pipelines());
        let shutdown = self.shutdown.clone();
        let broke = |error| anyhow!("the worker broke: {error}");
        self.tasks.spawn(async move { worker.run(shutdown).await.map_err(broke) });
        let table = ParkedTable::new(client.clone());
        self.spawn(Attendant::new(parked, table, confirm_timeout, self.shutdown.clone()).run());
        let refunder = Refunder::new(Refunds::new(client), gateways.clone());
        self.spawn(refunder.run(self.shutdown.clone()));
    }

    fn start_sweep(&mut self, settings: &RoleSettings, books: Books, gateways: &Gateways) {
        self.names.push("sweep");
        let Books { client, orders, timers } = books;
        let sweep = Sweep::new(orders, timers, client, gateways, settings.sweep(), self.shutdown.clone());
        self.spawn(sweep.run());
    }

    fn spawn(&mut self, role: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            role.await;
            Ok(())
        });
    }

    /// Reports from time to time, until the roles are told to stop and have ended.
    pub(crate) async fn finish(
        &mut self,
        shutdown: &CancellationToken,
        shutdown_timeout: Duration,
        report_every: Duration,
    ) -> Result<(), Failure> {
        let mut report = tokio::time::interval(report_every);
        let mut last = self.report_line();
        let in_time = async {
            shutdown.cancelled().await;
            tokio::time::sleep(shutdown_timeout).await;
        };
        tokio::pin!(in_time);
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    // A role that breaks takes the process with it: its supervisor starts it again.
                    Some(Ok(Err(error))) => return Err(error.into()),
                    Some(Err(error)) => return Err(anyhow!("a role broke: {error}").into()),
                },
                _ = report.tick() => {
                    let line = self.report_line();
                    if line != last {
                        tracing::info!("since the start: {line}");
                        last = line;
                    }
                }
                () = &mut in_time => {
                    let waited = humantime::format_duration(shutdown_timeout);
                    return Err(Failure::new(Kind::Unfinished, anyhow!("not finished within {waited}; unfinished messages come again")));
                }
            }
        }
        if let Some(trail) = self.trail.take() {
            trail.end().await;
        }
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.end().await;
        }
        tracing::info!("stopped; since the start: {}", self.report_line());
        Ok(())
    }

    fn report_line(&self) -> String {
        report::line(self.relay.as_ref(), self.worker.as_ref())
    }
}

/// The endpoints of a process that is to deliver to them.
fn endpoints(settings: &WebhookSettings) -> Result<Vec<Endpoint>, Failure> {
    let endpoints = settings.endpoints()?;
    match endpoints.is_empty() {
        false => Ok(endpoints),
        true => Err(Failure::settings(
            "the role webhooks needs --webhooks FILE (OVERDUE_WEBHOOKS) with an endpoint in it; docs/webhooks.md describes it".to_owned(),
        )),
    }
}

/// Connections for settling orders, shown under this name.
fn client(
    settings: &DatabaseSettings,
    connections: usize,
    name: &'static str,
    samples: &mut Samples,
) -> Result<Client, Failure> {
    let client = servers::client(settings, connections, Purpose::Settle)?;
    let counted = client.clone();
    samples.add_pool(name, move || counted.state());
    Ok(client)
}

/// The order book through these connections. What one role learns of it the others know.
fn book(client: &Client, known: Option<&SharedBook>) -> SharedBook {
    let book = Arc::new(PostgresBook::new(client.clone()));
    known.map_or_else(|| SharedBook::new(Arc::clone(&book) as _), |known| known.through(Arc::clone(&book) as _))
}
