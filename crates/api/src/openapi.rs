use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::input::{TEXT_CHARACTERS_MAX, TEXT_PATTERN};
use crate::problem::Problem;
use crate::{changes, health, metrics, notify, orders, timers};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Overdue",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        description = "Orders that are not paid in time are closed, and timers of every kind fire. Everything under /orders and /timers needs the bearer token that the server was started with, if it was started with one."
    ),
    paths(
        changes::create, orders::show, orders::timeline, changes::pay, changes::cancel, changes::close, changes::extend,
        timers::arm, timers::show, timers::cancel, timers::fire, timers::list,
        notify::notify, health::healthz, health::readyz, metrics::metrics,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer, &LogTexts),
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// The bounds of texts that are kept in the log, as `input::text` checks them.
struct LogTexts;

impl utoipa::Modify for LogTexts {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let Some(components) = &mut document.components else { return };
        for schema in ["Close", "Extend"].map(str::to_owned) {
            let Some(RefOr::T(Schema::Object(body))) = components.schemas.get_mut(&schema) else { continue };
            for field in ["operator_type", "operator", "reason"] {
                if let Some(RefOr::T(Schema::Object(text))) = body.properties.get_mut(field) {
                    text.max_length = Some(TEXT_CHARACTERS_MAX);
                    text.pattern = Some(TEXT_PATTERN.to_owned());
                }
            }
        }
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
