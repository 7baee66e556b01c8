//! The promises of Overdue, on a real RabbitMQ and a real PostgreSQL. Each test has a virtual host and a
//! database of its own, so they run side by side.

mod api;
mod closing;
mod commands;
mod contract;
mod crashes;
mod database;
mod doctor;
mod doctor_advice;
mod documents;
mod events;
mod foreign;
mod going_round;
mod outages;
mod own_fault;
mod parked;
mod parking;
mod payments;
mod races;
mod refunds;
mod relaying;
mod repairs;
mod retrying;
mod rights;
mod schedules;
mod schema;
mod sharding;
mod shop;
mod sweep;
mod tls;
mod topology;
mod tracing;
mod under_fire;
mod watching;
mod wechat;
