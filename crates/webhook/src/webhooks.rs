//! The role webhooks: a dispatcher for each endpoint, and a look now and then at which of them are stopped.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use book::{StoppedEndpoints, Trail};
use broker::{Broker, Publisher};
use order::Lanes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trace::Throttle;

use crate::circuit::{Circuit, PROBE_EVERY};
use crate::client::EndpointClient;
use crate::dispatcher::Dispatcher;
use crate::endpoint::Endpoint;
use crate::endpoint_state::{EndpointState, EndpointStates};
use crate::metrics::WebhookMetrics;

/// Delivers events to endpoints.
pub struct Webhooks {
    broker: Broker,
    clients: Vec<Arc<EndpointClient>>,
    lanes: Lanes,
    store: StoppedEndpoints,
    confirm_timeout: Duration,
    probe_every: Duration,
    metrics: WebhookMetrics,
    states: EndpointStates,
    trail: Trail,
}

/// How often is looked which endpoints are stopped.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Webhooks {
    /// For these endpoints; sends nothing yet.
    ///
    /// # Errors
    /// A sentence, if the system gives no TLS.
    pub fn new(
        broker: Broker,
        endpoints: Vec<Endpoint>,
        lanes: Lanes,
        store: StoppedEndpoints,
        confirm_timeout: Duration,
    ) -> Result<Self, String> {
        let metrics = WebhookMetrics::default();
        let clients: Result<Vec<Arc<EndpointClient>>, String> =
            endpoints.into_iter().map(|endpoint| EndpointClient::new(endpoint).map(Arc::new)).collect();
        let clients = clients?;
        for client in &clients {
            metrics.show(&client.endpoint().name);
        }
        let states = EndpointStates::of(clients.iter().map(|client| client.endpoint().name.clone()));
        Ok(Self {
            broker,
            clients,
            lanes,
            store,
            confirm_timeout,
            probe_every: PROBE_EVERY,
            metrics,
            states,
            trail: Trail::default(),
        })
    }

    /// The same, with another time between two looks at an endpoint that was given up.
    #[must_use]
    pub fn probing_every(self, probe_every: Duration) -> Self {
        Self { probe_every, ..self }
    }

    /// The same, telling there what happened to events.
    #[must_use]
    pub fn telling(self, trail: Trail) -> Self {
        Self { trail, ..self }
    }

    /// What it has done; may be read while it runs.
    #[must_use]
    pub fn metrics(&self) -> WebhookMetrics {
        self.metrics.clone()
    }

    /// How its endpoints stand; may be read while it runs.
    #[must_use]
    pub fn states(&self) -> EndpointStates {
        self.states.clone()
    }

    /// Works until `shutdown`; then what is under way comes to its end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut watched = Vec::new();
        for client in &self.clients {
            let (sender, stopped) = watch::channel(None);
            let name = &client.endpoint().name;
            watched.push((name.clone(), sender));
            let state = self.states.get(name).map_or_else(|| Arc::new(EndpointState::new(name.clone())), Arc::clone);
            let dispatcher = Dispatcher {
                broker: self.broker.clone(),
                client: Arc::clone(client),
                lanes: self.lanes.clone(),
                publisher: Publisher::new(self.broker.clone(), "webhook", self.confirm_timeout),
                store: self.store.clone(),
                stopped,
                circuit: Circuit::default(),
                state,
                trail: self.trail.clone(),
                probe_every: self.probe_every,
                rests_until: None,
                next_at: Instant::now(),
                metrics: self.metrics.clone(),
                warnings: Throttle::default(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(dispatcher.run());
        }
        let look = async {
            loop {
                self.look(&watched).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let work = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    // A role that breaks takes the process with it.
                    std::panic::resume_unwind(panic);
                }
            }
        };
        tokio::select! {
            () = look => {}
            () = work => {}
        }
    }

    /// Which endpoints are stopped. While the database does not answer it stays as it was.
    async fn look(&self, watched: &[(String, watch::Sender<Option<bool>>)]) {
        let all = match self.store.all().await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "which endpoints are stopped cannot be looked up");
                return;
            }
        };
        let names: HashSet<&str> = all.iter().map(|endpoint| endpoint.name.as_str()).collect();
        for (name, sender) in watched {
            let is_stopped = names.contains(name.as_str());
            self.metrics.stopped(name, is_stopped);
            let changed = sender.send_if_modified(|known| known.replace(is_stopped) != Some(is_stopped));
            if changed && is_stopped {
                tracing::warn!(endpoint = name, "an endpoint is stopped; its events wait in its queue");
            }
        }
    }
}
