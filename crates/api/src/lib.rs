//! HTTP: the order service for shops without one, timers, closing an overdue order when a client looks at it, notifications of
//! payment gateways, health and metrics.

mod auth;
mod body;
mod change;
mod changes;
mod etag;
mod health;
mod idempotency;
mod input;
mod limits;
mod metrics;
mod notify;
mod openapi;
mod orders;
mod problem;
mod replica;
mod router;
mod server;
mod service;
mod tidy;
mod timers;
mod token;

pub use axum::Router;
pub use body::{Item, LogEntry, OrderView, PaymentView, TimelineEntry, TimerList, TimerView};
pub use health::{Readiness, Trouble};
pub use metrics::Metrics;
pub use openapi::openapi;
pub use problem::{Problem, ProblemKind};
pub use replica::Replica;
pub use router::router;
pub use server::{Listener, serve};
pub use service::{OrderService, Vitals};
pub use tidy::delete_old_answers;
pub use token::{BadToken, Token};
