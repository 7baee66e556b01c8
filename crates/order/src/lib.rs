//! What an order is and what is to be done with it when its deadline passes.
//!
//! Everything here is pure: no I/O, no async, no clock. The current time is always an argument.

mod closing;
mod coalesce;
mod deadline;
mod decide;
mod id;
mod lane;
mod operator;
mod payment;
mod shard;
mod status;

pub use closing::{CloseRules, Heard, Step, Verdict, next_step};
pub use coalesce::coalesce;
pub use deadline::{BadDeadline, Deadline};
pub use decide::{Decision, OrderFacts, decide};
pub use id::{BadOrderId, OrderId};
pub use lane::{BadLanes, Hop, Lane, Lanes};
pub use operator::Operator;
pub use payment::{CloseOutcome, Money, PaymentFacts, Prepay, Receipt, Trade, TradeState, is_currency};
pub use shard::{BadShards, Shard, Shards};
pub use status::{BadStatus, OrderStatus};
