use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Whose circuit breaker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CircuitOf {
    /// A payment gateway's.
    Gateway,
    /// An endpoint's of webhooks.
    Endpoint,
}

/// A circuit breaker, as a process has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitState {
    /// Whose it is.
    pub of: CircuitOf,
    /// The gateway, or the endpoint.
    pub name: String,
    /// The kind of call, such as `query`; none for endpoints.
    #[serde(default)]
    pub call: String,
    /// Since when it is open; `None`: it is closed, as it should be.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub open_since: Option<OffsetDateTime>,
    /// The next probe; `None`: it is closed, or a probe is under way.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub next_probe: Option<OffsetDateTime>,
    /// What went wrong last.
    #[serde(default)]
    pub fault: Option<String>,
    /// When that was.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub fault_at: Option<OffsetDateTime>,
    /// Calls that are under way, to the whole gateway or endpoint.
    #[serde(default)]
    pub in_flight: u64,
}

impl CircuitOf {
    /// Its name in tables and addresses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Endpoint => "endpoint",
        }
    }
}
