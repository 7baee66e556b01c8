use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::failure::Failure;
use crate::settings::{LogFormat, LogSettings};

/// What is to be kept until the program ends: traces that have not been sent go out then.
pub(crate) struct Telemetry {
    #[cfg(feature = "otel")]
    traces: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// Logs go to standard error, so that standard output is what was asked for. `quiet`: warnings only, unless a
/// filter was given. Traces go to the collector, if there is one.
pub(crate) fn init(settings: &LogSettings, quiet: bool) -> Result<Telemetry, Failure> {
    let wanted = if quiet && settings.filter == "info" { "warn" } else { settings.filter.as_str() };
    // A narrower directive for a module of lapin would win over ours.
    let wanted: Vec<&str> =
        wanted.split(',').filter(|directive| !directive.trim_start().starts_with("lapin")).collect();
    let mut filter = EnvFilter::builder().parse_lossy(wanted.join(","));
    // lapin logs whole messages at WARN, bodies and all, and at ERROR what it returns to us anyway. sqlx logs
    // statements. Spans for tracing are no logs.
    for directive in ["lapin=off", "sqlx=warn", "overdue::trace=off", "opentelemetry=off"] {
        if let Ok(directive) = directive.parse::<Directive>() {
            filter = filter.add_directive(directive);
        }
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .log_internal_errors(false)
        .with_ansi(stderr().is_terminal());
    let lines = match settings.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otel")]
    {
        let traces = settings.otlp_endpoint.as_ref().map(provider).transpose()?;
        let layer = traces.as_ref().map(|traces| {
            use opentelemetry::trace::TracerProvider;
            let ours = tracing_subscriber::filter::filter_fn(|metadata| metadata.target() == trace::TARGET);
            tracing_opentelemetry::layer().with_tracer(traces.tracer("overdue")).with_filter(ours)
        });
        registry.with(layer).init();
        Ok(Telemetry { traces })
    }
    #[cfg(not(feature = "otel"))]
    {
        registry.init();
        if settings.otlp_endpoint.is_some() {
            let advice =
                "this build exports no traces; build it with `--features overdue/otel`, or leave --otlp-endpoint out";
            return Err(Failure::settings(advice.to_owned()));
        }
        Ok(Telemetry {})
    }
}

#[cfg(feature = "otel")]
fn provider(endpoint: &url::Url) -> Result<opentelemetry_sdk::trace::SdkTracerProvider, Failure> {
    use opentelemetry_otlp::{Protocol, WithExportConfig};
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpJson)
        .with_endpoint(endpoint.as_str())
        .build()
        .map_err(|error| Failure::settings(format!("--otlp-endpoint cannot be used: {error}")))?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("overdue").build();
    Ok(opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// Sends the traces that have not been sent.
    pub(crate) fn finish(self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            // The collector may be away, which must not keep the program from ending.
            let _ = traces.shutdown_with_timeout(std::time::Duration::from_secs(3));
        }
    }
}
