//! All that an order service in Rust needs: arming a timeout, and announcing that an order was paid, in the transaction
//! that makes it true. It knows nothing of RabbitMQ; a relay sends what stands in the outbox.

mod arm;
mod event;

pub use arm::arm;
pub use event::{OrderPaid, announce_paid};
