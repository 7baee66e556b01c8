//! Orders, their payment deadlines, and the decision when a deadline passes.
//!
//! Everything here is pure: no I/O, no async, no clock. The current time is always an argument. The closed lists that
//! code, SQL, messages and documents must agree on are here too: [`TimeoutKind`], [`EventKind`], [`ParkReason`].

mod attempts;
mod closing;
mod coalesce;
mod deadline;
mod decide;
mod event_kind;
mod id;
mod lane;
mod lanes;
mod operator;
mod park_reason;
mod payment;
mod retry_reason;
mod shard;
mod status;
mod timeout_id;
mod timeout_kind;
mod timer;
mod timer_id;

pub use attempts::Attempts;
pub use closing::{CloseRules, GatewayAnswer, Step, Verdict, next_step};
pub use coalesce::{COALESCE_WINDOW, coalesce};
pub use deadline::{BadDeadline, Deadline};
pub use decide::{Decision, Heard, OrderFacts, Retry, decide};
pub use event_kind::{EventKind, UnknownEvent};
pub use id::{BadOrderId, OrderId};
pub use lane::{BadLane, Lane};
pub use lanes::{Hop, Lanes};
pub use operator::Operator;
pub use park_reason::{ParkReason, UnknownReason};
pub use payment::{
    CloseOutcome, Money, MoneyTold, PaymentFacts, PaymentState, Prepay, Receipt, TRANSACTION_ID_BYTES_MAX, Trade,
    TradeState, is_currency, is_transaction_id,
};
pub use retry_reason::RetryReason;
pub use shard::{BadShards, Shard, Shards};
pub use status::{BadStatus, OrderStatus};
pub use timeout_id::{BadTimeoutId, TimeoutId};
pub use timeout_kind::{TimeoutKind, UnknownKind};
pub use timer::{BadTimerDue, BadTimerState, TimerDecision, TimerFacts, TimerState, check_timer_due, decide_timer};
pub use timer_id::{BadSubject, BadTimerId, TimerId, check_kind, check_subject};
