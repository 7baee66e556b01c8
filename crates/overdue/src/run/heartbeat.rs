//! A process says every five seconds that it is at work, and what it has done; and does what operators have asked of
//! all processes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use book::{CircuitOf, HEARTBEAT_EVERY, Heartbeat, Lateness, Probe, Processes, TrailWriter};
use database::Client;
use relay::RelayMetrics;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trace::Throttle;
use uuid::Uuid;
use webhook::EndpointStates;
use worker::{Gateways, OutcomeKind, WorkerMetrics};

/// The parts of the process that are told of.
pub(super) struct Told {
    pub(super) roles: Vec<String>,
    pub(super) relay: Option<RelayMetrics>,
    /// Where orders are settled.
    pub(super) worker: Option<WorkerMetrics>,
    pub(super) gateways: Gateways,
    pub(super) endpoints: EndpointStates,
}

/// The heartbeat, as long as it goes on.
pub(crate) struct Beating {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What writes the trail, as long as it goes on.
pub(crate) struct Writing(Beating);

struct Heart {
    processes: Processes,
    told: Told,
    id: String,
    host: String,
    started_at: OffsetDateTime,
    /// The probes that were made, and when they were asked for.
    probed: HashMap<(CircuitOf, String), OffsetDateTime>,
    warnings: Throttle,
    /// Whether the database knows it.
    is_known: bool,
}

/// How long the database may take to hear the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Begins at once.
pub(super) fn begin(client: Client, told: Told) -> Beating {
    let stop = CancellationToken::new();
    let heart = Heart {
        processes: Processes::new(client),
        told,
        id: Uuid::now_v7().to_string(),
        host: whoami::hostname().unwrap_or_else(|_| "unknown".to_owned()),
        started_at: OffsetDateTime::now_utc(),
        probed: HashMap::new(),
        warnings: Throttle::default(),
        is_known: false,
    };
    let task = tokio::spawn(heart.beat(stop.clone()));
    Beating { stop, task }
}

impl Beating {
    /// Says the last word: the process has ended as it was told to, and is not missed.
    pub(super) async fn end(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(LAST_WORD, self.task).await;
    }
}

impl Writing {
    pub(super) fn begin(writer: TrailWriter) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer.run(stop.clone()));
        Self(Beating { stop, task })
    }

    /// What was told is written down.
    pub(super) async fn end(self) {
        self.0.end().await;
    }
}

impl Heart {
    async fn beat(mut self, stop: CancellationToken) {
        loop {
            self.say().await;
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT_EVERY) => {}
                () = stop.cancelled() => break,
            }
        }
        // What was done since the last heartbeat counts, too.
        self.say().await;
        let _ = self.processes.forget(&self.id).await;
    }

    async fn say(&mut self) {
        let late = self.told.worker.as_ref().map_or_else(Lateness::default, WorkerMetrics::take_lateness);
        let beat = self.heartbeat(late.clone());
        match self.processes.beat(&beat).await {
            Ok(probes) => {
                self.is_known = true;
                probes.into_iter().for_each(|probe| self.probe(probe));
            }
            Err(error) => {
                if let Some(worker) = &self.told.worker {
                    worker.put_back(&late);
                }
                if let Some(more) = self.warnings.lets_through("beat") {
                    tracing::warn!(%error, more, "the process cannot say that it is at work");
                }
            }
        }
    }

    fn heartbeat(&self, late: Lateness) -> Heartbeat {
        let Told { roles, relay, worker, gateways, endpoints } = &self.told;
        let mut counters = BTreeMap::new();
        if let Some(relay) = relay {
            counters.extend(relay_counters(relay));
        }
        if let Some(worker) = worker {
            counters.extend(worker_counters(worker));
        }
        counters.insert("steps_left_out", gateways.trail().left_out());
        Heartbeat {
            id: self.id.clone(),
            host: self.host.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: roles.clone(),
            started_at: self.started_at,
            is_first: !self.is_known,
            sweep_leader: worker.as_ref().is_some_and(|worker| worker.sweep_leader.get() > 0),
            held_orders: worker.as_ref().map_or(0, |worker| worker.held.get()),
            counters: counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            circuits: gateways.circuits().into_iter().chain(endpoints.circuits()).collect(),
            late,
            fired: worker.as_ref().map_or(0, |worker| worker.timers(OutcomeKind::Fired)),
            rescued: worker.as_ref().map_or(0, |worker| worker.rescued.get() + worker.timers_rescued.get()),
        }
    }

    fn probe(&mut self, probe: Probe) {
        let Probe { of, name, requested_at } = probe;
        if self.probed.insert((of, name.clone()), requested_at) == Some(requested_at) {
            return;
        }
        match of {
            CircuitOf::Gateway => self.told.gateways.probe_now(&name),
            CircuitOf::Endpoint => self.told.endpoints.probe_now(&name),
        }
    }
}

fn relay_counters(relay: &RelayMetrics) -> [(&'static str, u64); 3] {
    [("relayed", relay.orders.get()), ("announced", relay.events.get()), ("relay_failures", relay.failures.get())]
}

fn worker_counters(worker: &WorkerMetrics) -> [(&'static str, u64); 9] {
    [
        ("closed", worker.orders(OutcomeKind::Closed)),
        ("paid", worker.orders(OutcomeKind::Paid)),
        ("late_payments", worker.orders(OutcomeKind::LatePayment)),
        ("fired", worker.timers(OutcomeKind::Fired)),
        ("parked", worker.parked.get()),
        ("waits", worker.waits.get()),
        ("gateway_calls", worker.gateway_calls.get()),
        ("gateway_faults", worker.gateway_faults.get()),
        ("refunds_arrived", worker.refunds_arrived.get()),
    ]
}
