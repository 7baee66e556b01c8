use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use database::{DatabaseUrl, STATEMENT_TIMEOUT};
use secrecy::SecretString;

use super::parse::{Human, positive_up_to_a_day};
use super::secret::value_or_file;
use crate::failure::Failure;

#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseSettings {
    /// PostgreSQL: `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=ca.pem`
    #[arg(long, env = "OVERDUE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<SecretString>,
    /// A file that holds this URL
    #[arg(long, env = "OVERDUE_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// How long a statement may take, waiting for locks included
    #[arg(long, env = "OVERDUE_STATEMENT_TIMEOUT", default_value_t = Human(STATEMENT_TIMEOUT), value_parser = positive_up_to_a_day, value_name = "DURATION")]
    pub(crate) statement_timeout: Human,
}

impl DatabaseSettings {
    /// The same, with statements that take no longer than this.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        Self { statement_timeout: Human(self.statement_timeout.0.min(limit)), ..self.clone() }
    }

    pub(crate) fn url(&self) -> Result<DatabaseUrl, Failure> {
        let url = value_or_file("OVERDUE_DATABASE_URL", self.database_url.as_ref(), self.database_url_file.as_ref())?;
        let needed = || Failure::settings("--database-url (OVERDUE_DATABASE_URL) is needed for this".to_owned());
        Ok(DatabaseUrl::parse(&url.ok_or_else(needed)?)?)
    }
}
