use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use trace::causes;
use url::Url;

/// RabbitMQ's HTTP API, which tells what AMQP cannot: arguments, bindings, policies, versions, flags
/// (<https://www.rabbitmq.com/docs/http-api-reference>).
#[derive(Debug)]
pub struct Management {
    client: reqwest::Client,
    base: Url,
    user: String,
    password: SecretString,
}

/// A queue of a virtual host. RabbitMQ gathers its figures every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Messages in it.
    #[serde(default)]
    pub messages: u64,
    /// Messages that could be delivered.
    #[serde(default)]
    pub messages_ready: u64,
    /// Messages that are delivered and not acked.
    #[serde(default)]
    pub messages_unacknowledged: u64,
    /// How many consume it.
    #[serde(default)]
    pub consumers: u64,
    /// The arguments with which it was declared.
    #[serde(default)]
    pub(crate) arguments: Map<String, Value>,
    /// The policy that applies to it.
    #[serde(default)]
    pub(crate) policy: Option<String>,
    /// The operators' policy that applies to it.
    #[serde(default)]
    pub(crate) operator_policy: Option<String>,
    /// What that policy sets. Not always an object: an empty one is an empty list.
    #[serde(default)]
    pub(crate) effective_policy_definition: Value,
}

/// What `/api/overview` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Overview {
    #[serde(default)]
    pub(crate) rabbitmq_version: String,
}

/// A node of the cluster.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Missing where the node's own figures have not arrived yet.
    pub(crate) running: Option<bool>,
    #[serde(default)]
    pub(crate) mem_alarm: bool,
    #[serde(default)]
    pub(crate) disk_free_alarm: bool,
    #[serde(default)]
    pub(crate) partitions: Vec<String>,
}

/// An exchange of a virtual host.
#[derive(Debug, Deserialize)]
pub(crate) struct ExchangeState {
    pub(crate) name: String,
    /// The policy that applies to it.
    #[serde(default)]
    pub(crate) policy: Option<String>,
}

/// Who takes messages out of a queue.
#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerState {
    pub(crate) queue: ConsumedQueue,
    /// An empty list where the consumer's channel is not known yet.
    #[serde(default)]
    pub(crate) channel_details: Value,
    pub(crate) consumer_tag: String,
}

/// The queue that a consumer consumes.
#[derive(Debug, Deserialize)]
pub(crate) struct ConsumedQueue {
    pub(crate) name: String,
}

/// A binding.
#[derive(Debug, Deserialize)]
pub(crate) struct BindingState {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) destination_type: String,
    pub(crate) routing_key: String,
}

/// A feature flag.
#[derive(Debug, Deserialize)]
pub(crate) struct FeatureFlag {
    pub(crate) name: String,
    pub(crate) state: String,
}

impl QueueState {
    /// A queue of which no more is known than what could be delivered.
    pub(crate) fn ready(name: &str, messages: u64, consumers: u64) -> Self {
        Self {
            name: name.to_owned(),
            messages,
            messages_ready: messages,
            messages_unacknowledged: 0,
            consumers,
            arguments: Map::new(),
            policy: None,
            operator_policy: None,
            effective_policy_definition: Value::Null,
        }
    }

    /// For how long a message waits in it, in milliseconds, as it was declared; `None`: it is no lane.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u64> {
        self.arguments.get("x-message-ttl").and_then(Value::as_u64)
    }

    /// Messages that have expired and are held until their next queue has confirmed them. There is no other sign of a
    /// dead-lettered message that cannot be routed.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.messages.saturating_sub(self.messages_ready + self.messages_unacknowledged)
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

/// How long the API may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

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
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (decode(base.username()), decode(base.password().unwrap_or_default()));
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build().map_err(|error| bad(causes(&error)))?;
        Ok(Self { client, base, user, password: password.into() })
    }

    /// The queues of a virtual host.
    ///
    /// # Errors
    /// [`ManagementError`].
    pub async fn queues(&self, vhost: &str) -> Result<Vec<QueueState>, ManagementError> {
        self.get(&["queues", vhost]).await
    }

    pub(crate) async fn overview(&self) -> Result<Overview, ManagementError> {
        self.get(&["overview"]).await
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, ManagementError> {
        self.get(&["nodes"]).await
    }

    pub(crate) async fn bindings(&self, vhost: &str) -> Result<Vec<BindingState>, ManagementError> {
        self.get(&["bindings", vhost]).await
    }

    pub(crate) async fn exchanges(&self, vhost: &str) -> Result<Vec<ExchangeState>, ManagementError> {
        self.get(&["exchanges", vhost]).await
    }

    pub(crate) async fn consumers(&self, vhost: &str) -> Result<Vec<ConsumerState>, ManagementError> {
        self.get(&["consumers", vhost]).await
    }

    /// The feature flags; `None` if the user may not see them.
    pub(crate) async fn feature_flags(&self) -> Result<Option<Vec<FeatureFlag>>, ManagementError> {
        match self.get(&["feature-flags"]).await {
            Ok(flags) => Ok(Some(flags)),
            Err(ManagementError::AccessRefused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The broker's clock, to the second; `None` if its answer tells no time.
    pub(crate) async fn clock(&self) -> Result<Option<OffsetDateTime>, ManagementError> {
        let response = self.ask(&["overview"]).await?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()))
    }

    /// `GET /api/<path>`, each segment of the path percent-encoded.
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ManagementError> {
        let response = self.ask(path).await?;
        match response.status().as_u16() {
            200 => response.json().await.map_err(|error| self.unreachable(causes(&error))),
            401 | 403 => Err(ManagementError::AccessRefused),
            status => Err(self.unreachable(format!("it answered /api/{} with status {status}", path.join("/")))),
        }
    }

    async fn ask(&self, path: &[&str]) -> Result<reqwest::Response, ManagementError> {
        let segments: Vec<String> = path.iter().map(|s| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string()).collect();
        let url = format!("{}/api/{}", self.base.as_str().trim_end_matches('/'), segments.join("/"));
        let request = self.client.get(url).basic_auth(&self.user, Some(self.password.expose_secret()));
        request.send().await.map_err(|error| self.unreachable(causes(&error.without_url())))
    }

    fn unreachable(&self, reason: String) -> ManagementError {
        let host = self.base.host_str().unwrap_or("?");
        let address = format!("{host}:{}", self.base.port_or_known_default().unwrap_or(0));
        ManagementError::Unreachable { address, reason }
    }
}
