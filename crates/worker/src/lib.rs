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
mod pipeline;
mod refund_book;
mod refunding;
mod settling;
mod writing;

pub use asking::{AskSettings, Gateways};
pub use audit::{Audit, Check, audit};
pub use book::{BookError, Closed, Closing, Credited, Loaded, OrderBook, Payment, Told, TradeNote};
pub use counters::{CounterValues, WorkerCounters};
pub use database::{DatabaseError, DatabaseSettings, Pool, Purpose, connect, probe};
pub use notification::{NotificationError, Notified, take_notification};
pub use pipeline::{PipelineSettings, Worker};
pub use refund_book::{RefundRecord, refunds, resolve_refund};
