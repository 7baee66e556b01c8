//! The worker: takes what is due from the broker, looks the orders up, decides, closes, and only then acks.

mod audit;
mod book;
mod counters;
mod database;
mod pipeline;

pub use audit::{Audit, Check, audit};
pub use book::{BookError, Closed, Closing, Loaded, OrderBook};
pub use counters::{CounterValues, WorkerCounters};
pub use database::{DatabaseError, DatabaseSettings, Pool, Purpose, connect, probe};
pub use pipeline::{PipelineSettings, Worker};
