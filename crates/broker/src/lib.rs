//! RabbitMQ: the topology, the wire form, publishing that is confirmed and routed, and consuming that acks a message only
//! on the channel that brought it. No other crate of the program knows AMQP.

mod alarms;
mod amqp_url;
mod connection;
mod declare;
mod doctor;
mod error;
mod event;
mod finding;
mod forward;
mod guard;
mod guarded_stream;
mod headers;
mod incoming;
mod json;
mod live;
mod management;
mod outgoing;
mod parked;
mod publish;
mod ready;
mod routing;
mod session;
pub mod topology;
mod users;
mod verify;
pub mod wire;

pub use connection::{Broker, BrokerSettings};
pub use declare::declare;
pub use doctor::diagnose;
pub use error::BrokerError;
pub use event::Event;
pub use finding::{Finding, Verification};
pub use incoming::{DeliveryTag, Incoming};
pub use management::{Management, ManagementError, QueueState};
pub use outgoing::Outgoing;
pub use parked::{ParkedMessage, ParkedQueue};
pub use publish::{NotPublished, Publisher};
pub use ready::{BrokerProbe, check_presence};
pub use routing::due_queue;
pub use session::{Session, SessionEnd};
pub use topology::Topology;
pub use users::{BrokerUser, user_definitions, users};
pub use verify::verify;
