use std::path::PathBuf;

use broker::Topology;
use clap::Args;
use order::Lanes;
use webhook::{Endpoint, read_endpoints};

use crate::failure::Failure;

/// Where events are delivered to over HTTP.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WebhookSettings {
    /// The endpoints of webhooks: a TOML file; docs/webhooks.md describes it. The same for every process that has the role webhooks,
    /// and for `topology declare`
    #[arg(long, env = "OVERDUE_WEBHOOKS", value_name = "FILE")]
    pub(crate) webhooks: Option<PathBuf>,
}

impl WebhookSettings {
    /// The endpoints; none, where no file is named.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let Some(path) = &self.webhooks else { return Ok(Vec::new()) };
        read_endpoints(path).map_err(|error| Failure::settings(format!("--webhooks: {error}")))
    }

    /// The topology with these lanes and the endpoints' queues.
    pub(crate) fn topology(&self, lanes: &Lanes) -> Result<Topology, Failure> {
        Ok(topology(lanes, &self.endpoints()?))
    }
}

/// The topology with these lanes and these endpoints' queues.
pub(crate) fn topology(lanes: &Lanes, endpoints: &[Endpoint]) -> Topology {
    let queues = endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.types.as_slice()));
    Topology::new(lanes).with_webhooks(queues)
}
