//! Counters and gauges in the text form of OpenMetrics. Each crate registers its own.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use crate::problem::{Problem, ProblemKind};

/// The metrics of a process.
pub struct Metrics(Registry);

impl Metrics {
    /// The metrics of this registry.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(registry)
    }
}

/// The metrics, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    let mut page = String::new();
    match text::encode(&mut page, &metrics.0) {
        Ok(()) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page).into_response()
        }
        Err(_) => Problem::new(ProblemKind::NoMetrics, "the metrics cannot be written").into_response(),
    }
}
