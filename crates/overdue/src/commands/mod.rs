//! The small subcommands, one file each.

pub(crate) mod audit;
pub(crate) mod console_password;
pub(crate) mod gateway;
pub(crate) mod migrate;
pub(crate) mod openapi;
pub(crate) mod order;
pub(crate) mod parked;
pub(crate) mod publish;
pub(crate) mod refunds;
pub(crate) mod stock;
pub(crate) mod timer;
pub(crate) mod topology;
pub(crate) mod webhook;
