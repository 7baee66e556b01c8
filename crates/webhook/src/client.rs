use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker::WebhookMessage;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::Client;
use reqwest::redirect::Policy;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use trace::causes;

use crate::address::CheckedResolver;
use crate::endpoint::Endpoint;
use crate::signing::{Signer, message_id};

/// Delivers to one endpoint.
pub struct EndpointClient {
    client: Client,
    endpoint: Endpoint,
    signer: Signer,
}

/// How a delivery went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has it.
    Delivered,
    /// The receiver wants nothing more (410).
    Gone,
    /// It has it not, or nobody knows.
    Failed(Failure),
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words, without the URL.
    pub why: String,
    /// How long the receiver asks to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether the receiver will never take this event.
    pub is_final: bool,
}

/// The most bytes of an answer that are read, so that its connection may serve again. Nothing is done with them.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

impl EndpointClient {
    /// A client; sends nothing yet. It follows no redirect, uses no proxy, and connects to public addresses alone, unless the
    /// endpoint may be a private one.
    ///
    /// # Errors
    /// A sentence, if the system gives no TLS.
    pub fn new(mut endpoint: Endpoint) -> Result<Self, String> {
        let client = Client::builder()
            .timeout(endpoint.timeout)
            .connect_timeout(endpoint.timeout)
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(CheckedResolver { allows_private: endpoint.allows_private }))
            .pool_max_idle_per_host(endpoint.concurrency.into())
            .user_agent(concat!("overdue/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("there is no HTTP client to be had: {error}"))?;
        let signer = Signer::new(std::mem::take(&mut endpoint.keys));
        Ok(Self { client, endpoint, signer })
    }

    /// What it delivers to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends an event once.
    pub async fn deliver(&self, message: &WebhookMessage) -> Attempt {
        let id = message_id(&message.event_id());
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let signature = self.signer.signature(&id, timestamp, message.body());
        let mut request = self
            .client
            .post(self.endpoint.url.clone())
            .header(CONTENT_TYPE, message.content_type())
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(message.body().to_vec());
        if let Some(traceparent) = message.traceparent() {
            request = request.header("traceparent", traceparent.as_str());
        }
        let failed = |error: reqwest::Error| Attempt::Failed(Failure::passing(causes(&error.without_url()), None));
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(error),
        };
        let attempt = judge(response.status(), response.headers());
        let mut left = ANSWER_BYTES_MAX;
        while let Ok(Some(chunk)) = response.chunk().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                // The connection ends here.
                break;
            }
        }
        attempt
    }
}

impl Failure {
    fn passing(why: String, retry_after: Option<Duration>) -> Self {
        Self { why, retry_after, is_final: false }
    }
}

/// What an answer means: 2xx is the only success, a redirect is none, and 410 is the end.
fn judge(status: StatusCode, headers: &HeaderMap) -> Attempt {
    let why = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Attempt::Delivered,
        410 => Attempt::Gone,
        // What is wrong with this event stays wrong. What is wrong with the receiver (401, 404) may be mended.
        400 | 413 | 415 | 422 | 431 => Attempt::Failed(Failure { why, retry_after: None, is_final: true }),
        _ => Attempt::Failed(Failure::passing(why, retry_after(headers, SystemTime::now().into()))),
    }
}

/// In seconds, or a date (<https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds)).filter(|rest| !rest.is_zero());
    }
    let date = OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
    Duration::try_from(date - now).ok().filter(|rest| !rest.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())])
    }

    #[test]
    fn two_hundreds_are_delivered_and_the_rest_is_not() {
        let judged = |status: u16| judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        assert!([200, 201, 204, 299].into_iter().all(|status| judged(status) == Attempt::Delivered));
        assert_eq!(judged(410), Attempt::Gone);
        let is_final = |status| matches!(judged(status), Attempt::Failed(Failure { is_final: true, .. }));
        assert!([400, 413, 415, 422].into_iter().all(is_final));
        assert!(![301, 302, 307, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504].into_iter().any(is_final));
    }

    #[test]
    fn a_wish_to_be_left_alone_is_read_in_both_forms() {
        let now = OffsetDateTime::parse("Wed, 21 Oct 2015 07:27:00 +0000", &Rfc2822).unwrap();
        assert_eq!(retry_after(&headers("120"), now), Some(Duration::from_secs(120)));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(&headers(date), now), Some(Duration::from_secs(60)));
        for nonsense in ["soon", "-1", ""] {
            assert_eq!(retry_after(&headers(nonsense), now), None, "{nonsense}");
        }
        assert_eq!(retry_after(&headers("Wed, 21 Oct 2015 07:26:00 GMT"), now), None, "it is over");
    }
}
