//! Creating orders, arming their timeouts, and the relay that sends the timeouts to RabbitMQ.

mod arm;
mod database;
mod orders;
mod payments;
mod relay;
mod schema;
mod stock;
mod summary;

pub use arm::arm;
pub use database::{ConnectError, DatabaseSettings, RELAY_SESSION, connect};
pub use orders::{Item, NewOrder, Order, OrderError, cancel, create, pay, show};
pub use orders::{LogEntry, OrderView, PaymentView};
pub use payments::{begin_prepay, expect_payment, prepay_created};
pub use relay::{Relay, RelayCounters, RelaySettings};
pub use schema::{SchemaError, check, migrate};
pub use sqlx::{Error as DatabaseError, PgPool};
pub use stock::{Stock, add_stock, stock};
pub use summary::{Counts, Lateness, Summary, counts, summary};
