//! The worker: takes what is due from the broker, looks the orders up, decides, asks payment gateways, closes, and
//! only then acks.

mod asking;
mod audit;
mod book;
mod circuit;
mod counters;
mod database;
mod database_time;
mod follow_ups;
mod notification;
mod passive;
mod pipeline;
mod refund_book;
mod refunding;
mod settling;
mod sweep;
mod sweep_book;
mod writing;

pub use asking::{AskSettings, Gateways};
pub use audit::{Audit, Check, audit};
pub use book::{Actor, BookError, Closed, Closing, Credited, Loaded, OrderBook, Payment, Told, TradeNote, Written};
pub use counters::{CounterValues, WorkerCounters};
pub use database::{DatabaseError, DatabaseSettings, Pool, Purpose, connect, probe, session_is_as_set};
pub use notification::{NotificationError, Notified, take_notification};
pub use passive::PassiveClose;
pub use pipeline::{PipelineSettings, Worker};
pub use refund_book::{RefundRecord, refunds, resolve_refund};
pub use settling::UnknownOrders;
pub use sweep::{Sweep, SweepSettings};
