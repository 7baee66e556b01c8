//! What the promises stand on: a world of its own for each test (a virtual host and a database), programs to
//! run and kill in it, and a network that can be cut.
//!
//! The servers are those that `make up` starts, or your own; their URLs come from the environment. Without
//! servers the tests fail, they do not skip.

mod counted;
mod endpoints;
mod eventually;
mod foreign;
mod gateway;
mod oddly;
mod process;
mod proxy;
mod receiver;
mod servers;
mod world;

pub use counted::Counted;
pub use endpoints::{ENDPOINT_KEY, EndpointFile, endpoint};
pub use eventually::{eventually, until_none_is_left};
pub use foreign::{Foreign, ParkedMessage};
pub use gateway::{
    alipay_environment, alipay_settings, gateways, gateways_of, impatient, impatient_command, keys, service_settings,
    simulator, wechat, wechat_environment, wechat_settings,
};
pub use process::Process;
pub use proxy::Proxy;
pub use receiver::{Received, Receiver, Reply};
pub use servers::{env, management, use_servers};
pub use world::{Gate, Roles, World};
