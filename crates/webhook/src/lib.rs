//! Webhooks: events of the broker, delivered to services that speak HTTP. An endpoint is a queue; what it is sent is signed as
//! Standard Webhooks 1.0 has it (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

mod address;
mod circuit;
mod client;
mod dispatcher;
mod endpoint;
mod endpoint_state;
mod file;
mod metrics;
mod schedule;
mod signing;
mod webhooks;

pub use address::is_public;
pub use client::{Attempt, EndpointClient, Failure};
pub use endpoint::{BadEndpoint, Endpoint};
pub use endpoint_state::EndpointStates;
pub use file::{BadFile, read_endpoints};
pub use metrics::WebhookMetrics;
pub use schedule::{ATTEMPTS_MAX, delay_after};
pub use signing::{BadKey, Key, Signer, message_id};
pub use webhooks::Webhooks;
