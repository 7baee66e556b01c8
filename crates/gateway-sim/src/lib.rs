//! A payment gateway that exists on this machine only. It keeps a ledger of trades and refunds, speaks WeChat Pay
//! v3, Alipay and the contract of `docs/payment-service.openapi.json`, checks signatures and signs; and it can be told
//! to go wrong in every way in which a gateway does.
//!
//! It shares no code with the client that it tests.

mod alipay;
mod control;
mod hooks;
mod keys;
mod ledger;
mod message;
mod mishap;
mod server;
mod service;
mod shared;
mod wechat;

pub use keys::{Keys, Signer};
pub use ledger::{Ledger, RefundEntry, State, TradeEntry};
pub use mishap::{Call, Mishap};
pub use server::Simulator;
pub use shared::Statistics;

/// The merchant that the simulator knows.
pub const MCHID: &str = "1900009191";
/// The application that its trades belong to.
pub const APPID: &str = "wxd678efh567hg6787";
/// The application that Alipay's trades belong to.
pub const ALIPAY_APP_ID: &str = "2021000000000001";
/// The serial number of the merchant's certificate.
pub const MERCHANT_SERIAL: &str = "5157F09EFDC096DE15EBE81A47057A7232F1B8E1";
/// The key with which notifications and certificates are encrypted. Known to everybody: it guards nothing.
pub const API_V3_KEY: &str = "0123456789abcdef0123456789abcdef";
/// The ID of the platform's public key.
pub const PUBLIC_KEY_ID: &str = "PUB_KEY_ID_0119000091912026112200000001";
/// The name and the value of the secret of the signed HTTP contract. Known to everybody: it guards nothing.
pub const SERVICE_KEY: (&str, &str) = ("sim", "a-secret-that-guards-nothing-at-all");
