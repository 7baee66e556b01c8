//! The promises of Overdue, on a real RabbitMQ and a real PostgreSQL. Each test has a virtual host and a
//! database of its own, so they run side by side.

mod closing;
mod commands;
mod contract;
mod crashes;
mod foreign;
mod outages;
mod parking;
mod payments;
mod races;
mod refunds;
mod relaying;
mod schedules;
mod schema;
mod shop;
mod tls;
mod topology;
mod wechat;
