use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use broker::{Broker, Topology};
use order::Lanes;
use publisher::{PgPool, Relay, RelayCounters, RelaySettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::{
    CounterValues, Gateways, OrderBook, PipelineSettings, Purpose, Sweep, SweepSettings, UnknownOrders, Worker,
    WorkerCounters,
};

use crate::failure::{Failure, Kind};
use crate::gateways::gateways;
use crate::http::{Http, Parts};
use crate::servers;
use crate::settings::{HttpSettings, Role, RoleSettings, RunSettings, Tuning};

pub(crate) async fn run(settings: &RunSettings) -> Result<(), Failure> {
    check(settings)?;
    let shutdown = CancellationToken::new();
    watch_signals(&shutdown)?;
    let lanes = settings.lanes.lanes();
    let mut roles = Roles::start(&settings.only, &settings.roles, &settings.http, lanes, &shutdown).await?;
    tracing::info!(roles = ?roles.names, gateways = ?roles.gateways, pid = std::process::id(), "running");
    roles.finish(&shutdown, settings.shutdown_timeout, settings.report_every).await
}

/// Settings that fit their types but not each other.
fn check(settings: &RunSettings) -> Result<(), Failure> {
    let RoleSettings { tuning, broker, .. } = &settings.roles;
    if tuning.claim_lease <= broker.confirm_timeout {
        return Err(Failure::settings(format!(
            "--claim-lease ({}) must be longer than --confirm-timeout ({}), or two relays send the same orders again and again",
            humantime::format_duration(tuning.claim_lease),
            humantime::format_duration(broker.confirm_timeout),
        )));
    }
    if tuning.coalesce_window > Lanes::TOLERANCE {
        return Err(Failure::settings(format!(
            "--coalesce-window ({}) must not exceed {}: orders would be closed that much too late",
            humantime::format_duration(tuning.coalesce_window),
            humantime::format_duration(Lanes::TOLERANCE),
        )));
    }
    Ok(())
}

/// The first signal asks the roles to stop; the second ends the process at once.
fn watch_signals(shutdown: &CancellationToken) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| anyhow!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut told = None;
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            // Some programs signal a process and then its group: that is one wish, not two.
            if told.is_some_and(|told: Instant| told.elapsed() < Duration::from_millis(300)) {
                continue;
            }
            told = Some(Instant::now());
            // First the deed, then the word: whoever reads the log may be gone.
            if shutdown.is_cancelled() {
                tracing::warn!("told to stop twice: ending at once; unfinished messages come again");
                std::process::exit(code);
            }
            shutdown.cancel();
            tracing::info!("told to stop: finishing what is in hand");
        }
    });
    Ok(())
}

/// How many connections there are for orders that somebody looks at over HTTP.
const PASSIVE_CONNECTIONS: usize = 8;

/// Roles at work in this process.
pub(crate) struct Roles {
    names: Vec<&'static str>,
    /// The payment gateways that are set up.
    gateways: Vec<String>,
    tasks: JoinSet<Result<(), anyhow::Error>>,
    /// How long the database may be silent: its own statement timeout comes first.
    answer_timeout: Duration,
    relay: Option<Arc<RelayCounters>>,
    pub(crate) worker: Option<Arc<WorkerCounters>>,
}

impl Roles {
    /// Checks that the servers answer and are as they must be, then starts the roles (`only`: none means all).
    pub(crate) async fn start(
        only: &[Role],
        settings: &RoleSettings,
        http: &HttpSettings,
        lanes: Lanes,
        shutdown: &CancellationToken,
    ) -> Result<Self, Failure> {
        let RoleSettings { database, broker, tuning, gateways: gateway_settings } = settings;
        let wanted = |role| match only {
            [] => role != Role::Api || http.listen.is_some(),
            only => only.contains(&role),
        };
        // Before anything is connected to: settings that cannot be used are found at once.
        let asks = [Role::Worker, Role::Sweep, Role::Api].into_iter().any(wanted);
        let gateways = if asks { gateways(gateway_settings)? } else { Gateways::none() };
        let http = Http::bind(http, wanted(Role::Api)).await?;
        let pool = servers::relay_database(database).await?;
        let confirm_timeout = broker.confirm_timeout;
        // Sweep and HTTP work without a broker.
        let broker = if wanted(Role::Relay) || wanted(Role::Worker) {
            let broker = servers::broker(broker, "run").await?;
            broker::check_presence(&Topology::new(&lanes), &broker).await?;
            Some(broker)
        } else {
            None
        };
        let answer_timeout = database.statement_timeout + Duration::from_secs(5);
        let mut roles = Self {
            names: Vec::new(),
            gateways: gateways.names(),
            tasks: JoinSet::new(),
            answer_timeout,
            relay: None,
            worker: None,
        };
        let book = if asks {
            let pipelines = [tuning.pipelines, gateway_settings.asking.gateway_pipelines];
            let pipelines: usize = pipelines.map(|count| usize::from(count).max(lanes.shards().count())).iter().sum();
            // One for each pipeline and the refunds; two for the sweep, which asks gateways beside its rounds.
            let connections = [(Role::Worker, pipelines + 1), (Role::Sweep, 2), (Role::Api, 1)];
            let connections = connections.iter().filter(|(role, _)| wanted(*role)).map(|(_, count)| count).sum();
            let worker_pool = servers::worker_database(database, connections, Purpose::Settle)?;
            // It has a TLS of its own; better to learn now that it does not get through.
            worker::probe(&worker_pool).await?;
            let default_gateway = gateway_settings.default.as_str().to_owned();
            let book = |pool| OrderBook::new(pool, answer_timeout, Some(default_gateway.clone()));
            // Apart, so that many who look at orders leave the pipelines their connections.
            let looked_at = servers::worker_database(database, PASSIVE_CONNECTIONS, Purpose::Settle)?;
            Some((book(worker_pool), book(looked_at)))
        } else {
            None
        };
        if let (true, Some(broker)) = (wanted(Role::Relay), &broker) {
            roles.start_relay(pool, broker.clone(), lanes.clone(), tuning, confirm_timeout, shutdown);
        }
        if let (true, Some(broker), Some((book, _))) = (wanted(Role::Worker), &broker, &book) {
            let pipelines = PipelineSettings {
                pipelines: tuning.pipelines.into(),
                gateway_pipelines: gateway_settings.asking.gateway_pipelines.into(),
                batch_orders_max: tuning.batch_orders_max as usize,
                prefetch_messages: tuning.prefetch_messages,
                confirm_timeout,
                window: tuning.coalesce_window,
                unknown: UnknownOrders { attempts_max: tuning.unknown_attempts_max, ..UnknownOrders::default() },
                hold_max: tuning.hold_max,
                ..PipelineSettings::default()
            };
            roles.start_worker(Worker::new(broker.clone(), book.clone(), lanes, gateways.clone(), pipelines), shutdown);
        }
        if let (true, Some((book, _))) = (wanted(Role::Sweep), &book) {
            let sweep =
                SweepSettings { every: tuning.sweep_every, grace: tuning.sweep_grace, ..SweepSettings::default() };
            roles.start_sweep(Sweep::new(book.clone(), gateways.clone(), sweep, shutdown.clone()));
        }
        if let Some(http) = http {
            roles.names.extend(wanted(Role::Api).then_some("api"));
            let (book, looked_at) = book.unzip();
            let parts = Parts {
                database,
                broker,
                book,
                looked_at,
                gateways,
                relay: roles.relay.clone(),
                shutdown: shutdown.clone(),
            };
            let serving = http.start(parts).await?;
            roles.tasks.spawn(async move {
                serving.await;
                Ok(())
            });
        }
        Ok(roles)
    }

    fn start_relay(
        &mut self,
        pool: PgPool,
        broker: Broker,
        lanes: Lanes,
        tuning: &Tuning,
        confirm_timeout: Duration,
        shutdown: &CancellationToken,
    ) {
        let settings = RelaySettings {
            window: tuning.coalesce_window,
            claim_orders_max: tuning.claim_orders_max.into(),
            event_source: tuning.event_source.clone(),
            lease: tuning.claim_lease,
            poll: tuning.outbox_poll,
            answer_timeout: self.answer_timeout,
        };
        let relay = Relay::new(pool, broker, lanes, settings, confirm_timeout);
        self.names.push("relay");
        self.relay = Some(relay.counters());
        let shutdown = shutdown.clone();
        self.tasks.spawn(async move {
            relay.run(shutdown).await;
            Ok(())
        });
    }

    fn start_worker(&mut self, worker: Worker, shutdown: &CancellationToken) {
        self.names.push("worker");
        self.worker = Some(worker.counters());
        let shutdown = shutdown.clone();
        self.tasks
            .spawn(async move { worker.run(shutdown).await.map_err(|error| anyhow!("the worker broke: {error}")) });
    }

    fn start_sweep(&mut self, sweep: Sweep) {
        self.names.push("sweep");
        self.worker = Some(sweep.counters());
        self.tasks.spawn(async move {
            sweep.run().await;
            Ok(())
        });
    }

    /// Reports now and then, until the roles are told to stop and have ended.
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
                    // A role that breaks takes the process with it: whoever supervises it starts it again.
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
        tracing::info!("stopped; since the start: {}", self.report_line());
        Ok(())
    }

    fn report_line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(relay) = &self.relay {
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            parts.push(format!(
                "relay sent {} orders and {} events in {} messages, {} failures",
                read(&relay.orders),
                read(&relay.events),
                read(&relay.messages),
                read(&relay.failures)
            ));
        }
        if let Some(worker) = &self.worker {
            parts.push(worker_line(&worker.read()));
        }
        parts.join("; ")
    }
}

fn worker_line(now: &CounterValues) -> String {
    let mut line = format!(
        "worker settled {} orders in {} batches ({} a batch): {} closed, {} unchanged, {} early, {} parked; {} waits for a server; at most {} ms late",
        now.orders,
        now.batches,
        now.orders.checked_div(now.batches).unwrap_or(0),
        now.closed,
        now.unchanged,
        now.waiting,
        now.parked,
        now.held,
        now.lateness_max_ms
    );
    if now.rescued + now.stuck + now.passively_settled > 0 {
        line += &format!(
            "; {} rescued by the sweep, {} stuck, {} settled because somebody looked",
            now.rescued, now.stuck, now.passively_settled
        );
    }
    if now.handed_over + now.gateway_calls + now.gateway_held + now.refunded > 0 {
        line += &format!(
            "; gateways: {} calls, {} without an answer, at most {} at a time; {} orders found paid, {} asked again, {} held; {} payments too late, {} refunds arrived; {} kinds of calls suspended",
            now.gateway_calls,
            now.gateway_faults,
            now.gateway_in_flight_max,
            now.paid,
            now.retried,
            now.gateway_held,
            now.late,
            now.refunded,
            now.gateway_circuits_open
        );
    }
    line
}
