use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::problem::Problem;
use crate::{changes, health, metrics, notify, orders};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Overdue",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        description = "Orders that are not paid in time are closed. Everything under /orders needs the bearer token that the server was started with, if it was started with one."
    ),
    paths(
        changes::create, orders::show, orders::timeline, changes::pay, changes::cancel, changes::close, changes::extend,
        notify::notify, health::healthz, health::readyz, metrics::metrics,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// The description of this API in OpenAPI form, as JSON.
#[must_use]
pub fn openapi() -> String {
    Document::openapi().to_pretty_json().unwrap_or_default()
}

pub(crate) async fn serve() -> ([(http::HeaderName, &'static str); 1], String) {
    ([(http::header::CONTENT_TYPE, "application/json")], openapi())
}
