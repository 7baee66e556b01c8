//! The pages, a file each.

pub(crate) mod actions;
pub(crate) mod checks;
pub(crate) mod failure;
pub(crate) mod gateways;
pub(crate) mod lanes;
mod next;
pub(crate) mod now;
pub(crate) mod orders;
pub(crate) mod parked;
pub(crate) mod parked_message;
pub(crate) mod processes;
pub(crate) mod refunds;
pub(crate) mod story;
pub(crate) mod timers;

/// How many rows a page has.
pub(crate) const ROWS: i64 = 50;
