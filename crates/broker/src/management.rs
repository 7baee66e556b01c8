use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

/// RabbitMQ's HTTP API, which tells what AMQP cannot: arguments, bindings, policies, versions, flags.
#[derive(Debug)]
pub struct Management {
    client: reqwest::Client,
    base: Url,
    user: String,
    password: SecretString,
}

/// How a queue stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub total: u64,
    /// Those that could be delivered.
    pub ready: u64,
    /// Those that are delivered and not acked.
    pub unacked: u64,
    /// Who consumes it.
    pub consumers: u64,
}

impl QueueDepth {
    /// Messages that have expired and are held until whoever gets them has confirmed them: there is no other sign of a
    /// letter that cannot be routed.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.total.saturating_sub(self.ready + self.unacked)
    }
}

/// Why the HTTP API could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The URL is none, or not http or https.
    #[error("the management URL is not valid: {0}")]
    BadUrl(String),
    /// No usable answer.
    #[error("the management API at {address} cannot be asked: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Wrong user or password, or a user without the tag `monitoring`.
    #[error(
        "the management API refused access: the user and password must be right, and the user needs the tag `monitoring` and access to the virtual host"
    )]
    AccessRefused,
}

impl Management {
    /// Checks the URL `http://user:password@host:port`; asks nothing yet.
    ///
    /// # Errors
    /// [`ManagementError::BadUrl`].
    pub fn new(url: &SecretString) -> Result<Self, ManagementError> {
        let bad = |reason: String| ManagementError::BadUrl(reason);
        let mut base: Url = url.expose_secret().parse().map_err(|error: url::ParseError| bad(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad(format!("the scheme is {}, not http or https", base.scheme())));
        }
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (decode(base.username()), decode(base.password().unwrap_or_default()));
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| bad(error.to_string()))?;
        Ok(Self { client, base, user, password: password.into() })
    }

    /// `GET /api/<path>`, each segment of the path percent-encoded.
    ///
    /// # Errors
    /// [`ManagementError`] for anything but a JSON answer with status 200.
    pub async fn get(&self, path: &[&str]) -> Result<Value, ManagementError> {
        let unreachable = |reason: String| ManagementError::Unreachable { address: self.address(), reason };
        let response = self.ask(path).await?;
        match response.status().as_u16() {
            200 => response.json().await.map_err(|error| unreachable(innermost(&error))),
            401 | 403 => Err(ManagementError::AccessRefused),
            status => Err(unreachable(format!("it answered /api/{} with status {status}", path.join("/")))),
        }
    }

    /// What the API says of the time.
    pub(crate) async fn date(&self) -> Result<Option<String>, ManagementError> {
        let response = self.ask(&["overview"]).await?;
        Ok(response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned))
    }

    async fn ask(&self, path: &[&str]) -> Result<reqwest::Response, ManagementError> {
        let unreachable = |reason: String| ManagementError::Unreachable { address: self.address(), reason };
        let segments: Vec<String> = path.iter().map(|s| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string()).collect();
        let url = format!("{}/api/{}", self.base.as_str().trim_end_matches('/'), segments.join("/"));
        let request = self.client.get(url).basic_auth(&self.user, Some(self.password.expose_secret()));
        request.send().await.map_err(|error| unreachable(innermost(&error)))
    }

    /// How the queues of a virtual host stand, as of some seconds ago: RabbitMQ gathers these figures now and then.
    ///
    /// # Errors
    /// [`ManagementError`].
    pub async fn queues(&self, vhost: &str) -> Result<Vec<QueueDepth>, ManagementError> {
        let queues = self.get(&["queues", vhost]).await?;
        let number = |queue: &Value, name: &str| queue[name].as_u64().unwrap_or(0);
        Ok(queues
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|queue| {
                Some(QueueDepth {
                    name: queue["name"].as_str()?.to_owned(),
                    total: number(queue, "messages"),
                    ready: number(queue, "messages_ready"),
                    unacked: number(queue, "messages_unacknowledged"),
                    consumers: number(queue, "consumers"),
                })
            })
            .collect())
    }

    fn address(&self) -> String {
        format!("{}:{}", self.base.host_str().unwrap_or("?"), self.base.port_or_known_default().unwrap_or(0))
    }
}

/// The cause at the bottom: reqwest's own sentence only says that sending failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
