//! The order book: a trait with the calls by which orders are looked up and settled, and PostgreSQL behind it. Beside it,
//! each in a file of its own: timers, trades, refunds, the lead of the sweep, the audit, and facts for doctor and metrics.

mod audit;
mod columns;
mod endpoints;
mod gateways;
mod health;
mod order_book;
mod parked;
mod parked_filter;
mod postgres;
mod refunds;
mod rights;
mod setup;
mod sweep;
mod timers;
mod trades;

pub use audit::{Audit, Check, audit};
pub use columns::unfit_columns;
pub use database::ServerTime;
pub use endpoints::{StoppedEndpoint, StoppedEndpoints};
pub use gateways::{
    GatewayConflict, GatewayEntry, RegisteredGateway, forget_gateway, gateway_conflicts, register_gateways,
    registered_gateways, set_default_gateway,
};
pub use health::{
    missing_indexes, orders_past_deadline, orders_unclear_at_gateway, refunds_needing_person, refunds_waiting,
    timers_past_due,
};
pub use order_book::{
    Actor, BookError, BookResult, Bookmark, Closed, Closing, Credited, ItemReply, KeptBack, Loaded, MoneyAside,
    OrderBook, OverduePage, PageRequest, Payment, Reply, Revision, TradeFinding, TradeNote,
};
pub use parked::{KEPT_FOR, ParkedGroup, ParkedRow, ParkedTable, Parking};
pub use parked_filter::{ParkedFilter, ParkedState};
pub use postgres::PostgresBook;
pub use refunds::{DueRefund, RefundProgress, RefundRecord, RefundStep, Refunds};
pub use setup::{Flaw, flaws};
pub use sweep::{Lead, is_led};
pub use timers::{Fired, Firing, TimerCommand, TimerPage, TimerReply, Timers};
pub use trades::Trades;
