use clap::{Args, ValueEnum};
use url::Url;

#[derive(Debug, Args)]
pub(crate) struct LogSettings {
    /// What is logged: off, error, warn, info, debug, trace, or a filter such as `info,overdue_worker=debug`
    #[arg(long = "log", env = "OVERDUE_LOG", default_value = "info", global = true, value_name = "FILTER")]
    pub(crate) filter: String,
    /// How it is logged, to standard error
    #[arg(long = "log-format", env = "OVERDUE_LOG_FORMAT", default_value = "text", global = true)]
    pub(crate) format: LogFormat,
    /// Where traces go, by OTLP over HTTP (JSON): `http://collector:4318/v1/traces`. Only in builds with the feature `otel`
    #[arg(long = "otlp-endpoint", env = "OVERDUE_OTLP_ENDPOINT", global = true, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Url>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For machines, one object a line
    Json,
}
