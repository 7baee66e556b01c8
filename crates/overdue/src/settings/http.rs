use std::net::SocketAddr;
use std::path::PathBuf;

use api::Token;
use clap::Args;
use database::DatabaseUrl;
use secrecy::SecretString;

use super::secret::value_or_file;
use super::{ConsoleSettings, ManagementSettings};
use crate::failure::Failure;

/// Health, metrics and the order service over HTTP.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpSettings {
    /// Where to serve /healthz, /readyz and /metrics, with the role `console` the pages, and with the role `api` the orders and timers;
    /// without it there is no HTTP
    #[arg(long, env = "OVERDUE_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The bearer token for everything under /orders and /timers, 16 bytes or more; needed unless only this machine can connect
    #[arg(long, env = "OVERDUE_API_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    api_token: Option<SecretString>,
    /// A file that holds the token
    #[arg(long, env = "OVERDUE_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// A read replica of the database, for read-only requests (GET). Orders that it does not know, or calls overdue, are
    /// looked up in the primary
    #[arg(long, env = "OVERDUE_READ_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    read_database_url: Option<SecretString>,
    /// A file that holds this URL
    #[arg(long, env = "OVERDUE_READ_DATABASE_URL_FILE", value_name = "FILE")]
    read_database_url_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) management: ManagementSettings,
    #[command(flatten)]
    pub(crate) console: ConsoleSettings,
}

impl HttpSettings {
    pub(crate) fn token(&self) -> Result<Option<Token>, Failure> {
        let token = value_or_file("OVERDUE_API_TOKEN", self.api_token.as_ref(), self.api_token_file.as_ref())?;
        let bad = |error| Failure::settings(format!("the token of the API (OVERDUE_API_TOKEN) {error}"));
        token.as_ref().map(Token::new).transpose().map_err(bad)
    }

    pub(crate) fn read_database(&self) -> Result<Option<DatabaseUrl>, Failure> {
        let file = self.read_database_url_file.as_ref();
        let url = value_or_file("OVERDUE_READ_DATABASE_URL", self.read_database_url.as_ref(), file)?;
        Ok(url.as_ref().map(DatabaseUrl::parse).transpose()?)
    }
}
