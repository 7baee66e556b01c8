use std::path::PathBuf;
use std::time::Duration;

use broker::{Management, Publisher};
use clap::Args;
use secrecy::SecretString;

use super::parse::{Human, positive_up_to_a_day};
use super::secret::value_or_file;
use crate::failure::Failure;

#[derive(Debug, Clone, Args)]
pub(crate) struct BrokerSettings {
    /// RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`. Sweep and API work without it
    #[arg(long, env = "OVERDUE_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<SecretString>,
    /// A file that holds this URL
    #[arg(long, env = "OVERDUE_AMQP_URL_FILE", value_name = "FILE")]
    amqp_url_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities that may sign the broker's, in addition to the system's
    #[arg(long, env = "OVERDUE_AMQP_CA_FILE", value_name = "FILE")]
    pub(crate) amqp_ca_file: Option<PathBuf>,
    /// How long the broker may take to confirm what is published
    #[arg(long, hide = true, default_value_t = Human(Publisher::CONFIRM_TIMEOUT), value_parser = positive_up_to_a_day)]
    confirm_timeout: Human,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ManagementSettings {
    /// RabbitMQ's management API (http or https), for what AMQP cannot tell: bindings, policies, version, alarms, queue
    /// lengths. The user needs the tag `monitoring`
    #[arg(long, env = "OVERDUE_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    management_url: Option<SecretString>,
    /// A file that holds this URL
    #[arg(long, env = "OVERDUE_MANAGEMENT_URL_FILE", value_name = "FILE")]
    management_url_file: Option<PathBuf>,
}

impl BrokerSettings {
    pub(crate) fn url(&self) -> Result<SecretString, Failure> {
        let url = value_or_file("OVERDUE_AMQP_URL", self.amqp_url.as_ref(), self.amqp_url_file.as_ref())?;
        url.ok_or_else(|| Failure::settings("--amqp-url (OVERDUE_AMQP_URL) is needed for this".to_owned()))
    }

    /// Whether anything is said of a broker.
    pub(crate) fn is_set(&self) -> bool {
        self.amqp_url.is_some() || self.amqp_url_file.is_some()
    }

    pub(crate) fn confirm_timeout(&self) -> Duration {
        self.confirm_timeout.0
    }
}

impl ManagementSettings {
    /// The management API, if it is known.
    pub(crate) fn management(&self) -> Result<Option<Management>, Failure> {
        let file = self.management_url_file.as_ref();
        let url = value_or_file("OVERDUE_MANAGEMENT_URL", self.management_url.as_ref(), file)?;
        Ok(url.as_ref().map(Management::new).transpose()?)
    }
}
