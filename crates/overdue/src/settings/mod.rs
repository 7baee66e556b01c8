//! Settings: flags and variables of the environment, a file for each part of the program. A default stands in the crate
//! that uses it.

mod broker;
mod console;
mod database;
mod gateways;
mod http;
mod lanes;
mod log;
mod parse;
mod roles;
mod secret;
mod timers;
mod webhooks;

pub(crate) use self::broker::{BrokerSettings, ManagementSettings};
pub(crate) use self::console::ConsoleSettings;
pub(crate) use self::database::DatabaseSettings;
pub(crate) use self::gateways::{AlipaySettings, GatewayName, GatewaySettings, HttpGatewaySettings, WeChatSettings};
pub(crate) use self::http::HttpSettings;
pub(crate) use self::lanes::LaneSettings;
pub(crate) use self::log::{LogFormat, LogSettings};
pub(crate) use self::parse::{Human, Parsed, duration, gone, parsed, positive};
pub(crate) use self::roles::{Role, RoleSettings, Tuning};
pub(crate) use self::timers::{TimerKinds, TimerSettings};
pub(crate) use self::webhooks::{WebhookSettings, topology};
