use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::metrics::metrics as show_metrics;
use crate::service::{OrderService, Vitals};
use crate::{auth, changes, health, input, limits, notify, openapi, orders, problem, timers};

/// Health and metrics, the order service if there is one, and pages of another part of the program, if there are any.
pub fn router(vitals: Vitals, service: Option<OrderService>, pages: Option<Router>) -> Router {
    let Vitals { readiness, metrics } = vitals;
    let mut router = Router::new()
        .route("/healthz", get(health::healthz))
        .merge(Router::new().route("/readyz", get(health::readyz)).with_state(readiness))
        .merge(Router::new().route("/metrics", get(show_metrics)).with_state(metrics));
    if let Some(service) = service {
        router = router.merge(service_router(Arc::new(service)));
    }
    if let Some(pages) = pages {
        router = router.merge(pages);
    }
    router
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(limits::to_the_end))
        .layer(from_fn(limits::whole))
        .layer(limits::tracing())
        .layer(from_fn(limits::named))
}

fn service_router(service: Arc<OrderService>) -> Router {
    let orders = Router::new()
        .route("/orders", post(changes::create))
        .route("/orders/{id}", get(orders::show))
        .route("/orders/{id}/timeline", get(orders::timeline))
        .route("/orders/{id}/pay", post(changes::pay))
        .route("/orders/{id}/cancel", post(changes::cancel))
        .route("/orders/{id}/close", post(changes::close))
        .route("/orders/{id}/extend", post(changes::extend))
        .route("/timers", get(timers::list))
        .route("/timers/{kind}/{subject}", get(timers::show).put(timers::arm).delete(timers::cancel))
        .route("/timers/{kind}/{subject}/fire", post(timers::fire))
        .layer(from_fn(input::require_json))
        .layer(from_fn_with_state(Arc::clone(&service), auth::admit));
    // A gateway's signature is its token.
    let open = Router::new()
        .route("/payments/{gateway}/notify", post(notify::notify))
        .route("/openapi.json", get(openapi::serve));
    orders.merge(open).with_state(service)
}
