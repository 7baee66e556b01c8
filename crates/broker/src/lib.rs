//! Everything that knows AMQP: the topology, the wire form, publishing that is confirmed and routed, and
//! consuming that acks a message only on the channel that brought it.

mod connection;
mod consume;
mod diagnosis;
mod error;
mod management;
mod outgoing;
mod parked;
mod publish;
pub mod topology;
mod users;
mod verify;
pub mod wire;

pub use connection::{Broker, BrokerSettings};
pub use consume::{Batch, Incoming, Session};
pub use diagnosis::diagnose;
pub use error::BrokerError;
pub use management::{Management, ManagementError, QueueDepth};
pub use outgoing::{Event, Outgoing, Tried};
pub use parked::{ParkedMessage, ParkedQueue};
pub use publish::{NotPublished, Publisher};
pub use topology::Topology;
pub use users::{BrokerUser, USERS, user_definitions};
pub use verify::{Finding, Verification, check_presence, verify};
