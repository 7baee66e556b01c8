//! All that an order service in Rust needs: arming the timeout of an order or a timer, and announcing that an order was paid, in
//! the transaction that makes it true. It knows nothing of RabbitMQ; a relay sends what stands in the outbox.

mod arm;
mod event;
mod timer;

pub use arm::arm;
pub use event::{OrderPaid, announce_paid};
pub use timer::{Timer, TimerDue, TimerFilter, arm_timer, cancel_timer, lock_timer, make_timer_due, timer, timers};
