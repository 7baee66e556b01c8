//! Creating orders, arming their timeouts, and the relay that sends the timeouts to RabbitMQ.

mod arm;
mod database;
mod deadline;
mod diagnosis;
mod orders;
mod outbox;
mod payments;
mod relay;
mod requests;
mod schema;
mod stock;
mod summary;
mod view;

pub use arm::arm;
pub use database::{ConnectError, DatabaseSettings, RELAY_SESSION, connect, connect_lazily, ping};
pub use deadline::{extend_in, make_due_in};
pub use diagnosis::{diagnose, refunds_needing_person};
pub use orders::{Item, NewOrder, Order, OrderError, cancel, cancel_in, create, create_in, pay, pay_in};
pub use outbox::{Backlog, backlog, past_deadline};
pub use payments::{begin_prepay, expect_payment, prepay_created};
pub use relay::{RELAY_CONNECTIONS, Relay, RelayCounters, RelaySettings};
pub use requests::{Change, Claim, Request, abandon_request, claim_request, finish_request};
pub use schema::{SchemaError, check, migrate};
pub use sqlx::{Error as DatabaseError, PgPool};
pub use stock::{Stock, add_stock, stock};
pub use summary::{Counts, Lateness, Summary, counts, summary};
pub use view::{LogEntry, OrderView, PaymentView, TimelineEntry, show, timeline};
