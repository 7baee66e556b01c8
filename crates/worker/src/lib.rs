//! The worker: takes orders that are due from the broker, looks them up, decides, asks payment gateways, closes, and
//! only then acks. The sweep, passive close, notifications and refunds are here, too.

mod answer;
mod arrival;
mod asking;
mod attempt;
mod attendant;
mod circuit;
mod commander;
mod early;
mod evidence;
#[cfg(test)]
mod fakes;
mod follow_ups;
mod gateway_client;
mod gateway_settings;
mod gateways;
mod handler;
mod hold;
mod metrics;
mod notification;
mod onward;
mod outbound;
mod outcome;
mod passive;
mod patience;
mod pipeline;
mod plan;
mod refunder;
mod requeue;
mod rounds;
mod settler;
mod shared_book;
mod stuck;
mod sweep;
mod timer_rounds;
mod timers;
mod trust;
mod worker;
mod writer;

pub use attendant::Attendant;
pub use commander::Commander;
pub use gateway_settings::GatewaySettings;
pub use gateways::Gateways;
pub use metrics::WorkerMetrics;
pub use notification::{NotificationError, NotificationOutcome, Notifications};
pub use outcome::OutcomeKind;
pub use passive::PassiveClose;
pub use plan::UnknownOrders;
pub use refunder::Refunder;
pub use requeue::{HandlingError, ParkedChoice, Progress, Requeued, move_parked, requeue};
pub use shared_book::SharedBook;
pub use sweep::{Sweep, SweepSettings};
pub use timers::SharedTimers;
pub use worker::{PipelineSettings, Worker};
