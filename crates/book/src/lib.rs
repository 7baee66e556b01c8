//! The order book: a trait with the calls by which orders are looked up and settled, and PostgreSQL behind it. Beside
//! it, each in a file of its own: timers, trades, refunds, the lead of the sweep, the audit, and facts for doctor and
//! metrics.

mod audit;
mod checks;
mod circuit_state;
mod columns;
mod endpoints;
mod gateways;
mod health;
mod lateness;
mod liveness;
mod operators;
mod order_book;
mod overview;
mod parked;
mod parked_again;
mod parked_filter;
mod parked_list;
mod parking;
mod postgres;
mod processes;
mod refunds;
mod rights;
mod setup;
mod sweep;
mod timers;
mod trades;
mod trail;

pub use audit::{Audit, Check, audit};
pub use checks::{CheckRow, Checks};
pub use circuit_state::{CircuitOf, CircuitState};
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
pub use lateness::{LATENESS_BOUNDS_S, Lateness};
pub use liveness::process_flaws;
pub use operators::{ACTION_DEAD_AFTER, ActionEnd, ActionRow, Begun, NewAction, OperatorActions};
pub use order_book::{
    Actor, BookError, BookResult, Bookmark, Closed, Closing, Credited, ItemReply, KeptBack, Loaded, MoneyAside,
    OrderBook, OverduePage, PageRequest, Payment, Reply, Revision, TradeFinding, TradeNote,
};
pub use overview::{COUNT_MAX, Count, Overview, Waiting, overview, waiting_in_outbox};
pub use parked::{KEPT_FOR, ParkedGroup, ParkedRow, ParkedTable};
pub use parked_again::SentAgain;
pub use parked_filter::{ParkedFilter, ParkedState};
pub use parked_list::ParkedEntry;
pub use parking::Parking;
pub use postgres::PostgresBook;
pub use processes::{HEARTBEAT_EVERY, Heartbeat, Minute, Probe, ProcessRow, Processes, SILENT_AFTER};
pub use refunds::{DueRefund, RefundProgress, RefundRecord, RefundStep, Refunds};
pub use setup::{Flaw, flaws};
pub use sweep::{Lead, is_led};
pub use timers::{Fired, Firing, TimerCommand, TimerPage, TimerReply, Timers};
pub use trades::Trades;
pub use trail::{Trail, TrailRow, TrailStep, TrailWriter, tidy_trail, trail_of};
