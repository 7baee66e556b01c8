//! HTTP: the order service for shops without one, closing orders because somebody looks at them, notifications of
//! payment gateways, health and metrics.

mod auth;
mod body;
mod health;
mod idempotency;
mod metrics;
mod notify;
mod openapi;
mod orders;
mod problem;
mod replica;
mod server;

pub use auth::{BadToken, Token};
pub use health::Readiness;
pub use metrics::{Metrics, PoolProbe, PoolState, Samples, Sources};
pub use openapi::openapi;
pub use problem::Problem;
pub use replica::Replica;
pub use server::{Listener, serve};

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use publisher::PgPool;
use worker::{Gateways, OrderBook, PassiveClose};

/// What is served besides orders: everywhere.
#[derive(Clone)]
pub struct Vitals {
    /// Whether the servers answer.
    pub readiness: Arc<Readiness>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What the order service works with.
#[derive(Clone)]
pub struct Shop {
    /// For creating and changing orders.
    pub pool: PgPool,
    /// For who only looks; `None`: they ask the primary, too.
    pub replica: Option<Arc<Replica>>,
    /// For orders that are past their deadline.
    pub passive: PassiveClose,
    /// For notifications.
    pub book: OrderBook,
    /// For notifications.
    pub gateways: Gateways,
    /// Who may use it; `None`: everybody who reaches it.
    pub token: Option<Token>,
}

/// How long a request waits for an order to be settled. It goes on by itself then.
const SETTLE_WAIT: Duration = Duration::from_secs(3);

/// The most bytes that a request's body may have.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Health and metrics, and the order service if there is one.
pub fn router(vitals: Vitals, shop: Option<Shop>) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .with_state(vitals);
    if let Some(shop) = shop {
        router = router.merge(shop_router(Arc::new(shop)));
    }
    router
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(server::in_time))
}

fn shop_router(shop: Arc<Shop>) -> Router {
    let orders = Router::new()
        .route("/orders", post(orders::create))
        .route("/orders/{id}", get(orders::show))
        .route("/orders/{id}/timeline", get(orders::timeline))
        .route("/orders/{id}/pay", post(orders::pay))
        .route("/orders/{id}/cancel", post(orders::cancel))
        .route("/orders/{id}/close", post(orders::close))
        .route("/orders/{id}/extend", post(orders::extend))
        .layer(from_fn_with_state(Arc::clone(&shop), auth::require_token));
    // A gateway's signature is its token.
    let open = Router::new()
        .route("/payments/{gateway}/notify", post(notify::notify))
        .route("/openapi.json", get(openapi::serve));
    orders.merge(open).with_state(shop)
}
