//! The relay: sends timeouts and events from the outbox to RabbitMQ, and deletes what the broker has confirmed.

mod backlog;
mod claim;
mod event_flow;
mod events;
mod frontier;
mod metrics;
mod pace;
mod relay;
mod timeouts;
mod trail;

pub use backlog::{Backlog, backlog};
pub use metrics::RelayMetrics;
pub use relay::{Relay, RelaySettings};
