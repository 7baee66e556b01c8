//! The order service that Overdue brings along: for shops that have none, for the demo, and as an example. Each change is
//! made on a connection of the caller's, in a transaction of its own or (the functions that end with `_in`) in the caller's.
//! It knows nothing of RabbitMQ.

mod cancel;
mod create;
mod deadline;
mod error;
mod log;
mod pay;
mod reopen;
mod requests;
mod search;
mod stock;
mod summary;
mod timeline;
mod trade;
mod view;

pub use cancel::{cancel, cancel_in};
pub use create::{NewOrder, Order, create, create_in};
pub use deadline::{extend, extend_in, make_due, make_due_in};
pub use error::OrderError;
pub use log::LogRow;
pub use pay::{pay, pay_in};
pub use reopen::reopen;
pub use requests::{Change, Claim, Request, abandon_request, claim_request, delete_old_requests, finish_request};
pub use search::{OrderLine, orders_like, overdue_orders};
pub use sqlx::{Error as SqlError, PgConnection};
pub use stock::{Item, Stock, add_stock, stock};
pub use summary::{Counts, Lateness, Summary, TimerSummary, counts, summary, timer_summary};
pub use timeline::{TimelineEntry, timeline};
pub use trade::{begin_prepay, expect_payment, prepay_created};
pub use view::{OrderView, PaymentView, show};
