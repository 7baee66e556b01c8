use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use book::{CircuitState, GatewayEntry, Trail};
use payment::PaymentGateway;

use crate::gateway_client::GatewayClient;
use crate::gateway_settings::GatewaySettings;
use crate::metrics::WorkerMetrics;

/// The gateways that are configured, by their names.
#[derive(Clone)]
pub struct Gateways {
    clients: HashMap<String, Arc<GatewayClient>>,
    pub(crate) settings: GatewaySettings,
    metrics: WorkerMetrics,
    trail: Trail,
}

impl Gateways {
    /// No gateway: orders are settled by their own status. Orders that name a gateway all the same are held.
    #[must_use]
    pub fn none() -> Self {
        Self::new(HashMap::new(), GatewaySettings::default())
    }

    /// These gateways, by the names that the table of payments uses.
    #[must_use]
    pub fn new(gateways: HashMap<String, Arc<dyn PaymentGateway>>, settings: GatewaySettings) -> Self {
        let (metrics, trail) = (WorkerMetrics::default(), Trail::default());
        let client = |(name, gateway): (String, Arc<dyn PaymentGateway>)| {
            let client = GatewayClient::new(&name, gateway, &settings, metrics.clone(), trail.clone());
            (name, Arc::new(client))
        };
        Self { clients: gateways.into_iter().map(client).collect(), settings, metrics, trail }
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.clients.keys().cloned().collect()
    }

    /// The gateways as they are registered, so that no process asks less than another.
    #[must_use]
    pub fn entries(&self) -> Vec<GatewayEntry> {
        let entry = |(name, client): (&String, &Arc<GatewayClient>)| GatewayEntry {
            name: name.clone(),
            account: client.gateway.account(),
            trade_numbers: client
                .gateway
                .trade_numbers()
                .map(|(pattern, words)| (pattern.to_owned(), words.to_owned())),
        };
        self.clients.iter().map(entry).collect()
    }

    /// Whether a trade at this gateway can have this number. An unknown gateway knows no rules.
    ///
    /// # Errors
    /// Says what numbers may be like.
    pub fn check_trade_no(&self, gateway: &str, trade_no: &str) -> Result<(), String> {
        self.clients.get(gateway).map_or(Ok(()), |client| client.gateway.check_trade_no(trade_no))
    }

    /// Where all that use these gateways count.
    #[must_use]
    pub fn metrics(&self) -> WorkerMetrics {
        self.metrics.clone()
    }

    /// Where all that use these gateways tell what happens to orders on their way.
    #[must_use]
    pub fn trail(&self) -> Trail {
        self.trail.clone()
    }

    /// Their circuit breakers, as they stand in this process.
    #[must_use]
    pub fn circuits(&self) -> Vec<CircuitState> {
        let mut circuits: Vec<CircuitState> = self.clients.values().flat_map(|client| client.circuits()).collect();
        circuits.sort_by(|one, other| (&one.name, &one.call).cmp(&(&other.name, &other.call)));
        circuits
    }

    /// Has a gateway whose circuit is open tried with the next call. An operator has asked for it.
    pub fn probe_now(&self, name: &str) {
        if let Some(client) = self.clients.get(name) {
            client.probe_now();
        }
    }

    pub(crate) fn client(&self, name: &str) -> Option<&Arc<GatewayClient>> {
        self.clients.get(name)
    }

    /// How long no gateway can be asked how trades stand; `None`: one can, or there is none.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let waits: Option<Vec<Duration>> = self.clients.values().map(|client| client.closed_for()).collect();
        waits?.into_iter().min()
    }
}
