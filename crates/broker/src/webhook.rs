//! Events on their way to an endpoint: each endpoint has a queue of its own, which waits for it.

use std::fmt::Display;

use data_encoding::HEXLOWER;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use order::{Attempts, Hop, ParkReason};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use trace::TraceParent;

use crate::forward::{carried_on, kept_headers, tells_of_death, without};
use crate::headers::{
    ATTEMPT_HEADER, ATTEMPTS_MADE_HEADER, DETAIL_HEADER, ENDPOINT_HEADER, EVENT_HEADER, ORIGINAL_ID_HEADER,
    REASON_HEADER, UNTIL_HEADER, attempts, insert_attempts, insert_text, insert_time, text,
};
use crate::routing::{webhook_key, webhook_queue};
use crate::subscription::Subscription;
use crate::topology::{LANES_EXCHANGE, PARKED_EXCHANGE};
use crate::{Broker, BrokerError, Outgoing};

/// A consumer of an endpoint's queue.
pub struct WebhookQueue {
    subscription: Subscription,
    endpoint: String,
}

/// An event that an endpoint is to be sent.
pub struct WebhookMessage {
    endpoint: String,
    /// Its ID, type and subject, as far as it tells.
    event: EventHead,
    body: Vec<u8>,
    properties: BasicProperties,
    attempts: Attempts,
    tag: u64,
}

#[derive(Debug, Default, Deserialize)]
struct EventHead {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    subject: Option<String>,
}

/// The most characters of a detail: all headers must fit into one frame.
const DETAIL_CHARACTERS_MAX: usize = 2_000;

impl WebhookQueue {
    /// Connects and subscribes. The broker sends `prefetch` events ahead at the most.
    ///
    /// # Errors
    /// [`BrokerError`]; the queue is not declared, only consumed.
    pub async fn open(broker: &Broker, endpoint: &str, prefetch: u16) -> Result<Self, BrokerError> {
        let queue = webhook_queue(endpoint);
        let subscription = Subscription::open(broker, &format!("webhook {endpoint}"), &queue, prefetch).await?;
        Ok(Self { subscription, endpoint: endpoint.to_owned() })
    }

    /// Waits for an event. `None` when the subscription has ended.
    ///
    /// May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<WebhookMessage> {
        Some(WebhookMessage::read(self.subscription.next().await?, &self.endpoint))
    }

    /// Takes an event out of the queue for good.
    ///
    /// # Errors
    /// [`BrokerError`]: it comes again then.
    pub async fn ack(&self, message: &WebhookMessage) -> Result<(), BrokerError> {
        self.subscription.ack(message.tag).await
    }

    /// Gives everything back that was not acked, and hangs up.
    pub async fn close(self) {
        self.subscription.close().await;
    }
}

impl WebhookMessage {
    fn read(delivery: Delivery, endpoint: &str) -> Self {
        let Delivery { data: body, properties, delivery_tag: tag, .. } = delivery;
        let attempts =
            properties.headers().as_ref().map_or_else(Attempts::default, |headers| attempts(headers, ATTEMPT_HEADER));
        let event = serde_json::from_slice(&body).unwrap_or_default();
        Self { endpoint: endpoint.to_owned(), event, body, properties, attempts, tag }
    }

    /// The event's ID, the same each time that it comes. What is no event of ours has one all the same: that of its message as it
    /// came at first, or one made of its bytes.
    #[must_use]
    pub fn event_id(&self) -> String {
        let of_message = || {
            let first = self.properties.headers().as_ref().and_then(|headers| text(headers, ORIGINAL_ID_HEADER));
            first.or_else(|| self.properties.message_id().as_ref().map(|id| id.as_str().to_owned()))
        };
        let of_bytes = || HEXLOWER.encode(&Sha256::digest(&self.body));
        self.event.id.clone().or_else(of_message).unwrap_or_else(of_bytes)
    }

    /// The order that it is about, or a timer's subject, if it says so.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.event.subject.as_deref()
    }

    /// Its type, if it says so.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.event.kind.as_deref()
    }

    /// Its bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The media type of its bytes.
    #[must_use]
    pub fn content_type(&self) -> &str {
        let visible = |text: &&str| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        self.properties.content_type().as_ref().map(|kind| kind.as_str()).filter(visible).unwrap_or("application/json")
    }

    /// The attempts so far that failed.
    #[must_use]
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// The trace that it belongs to, if its headers tell.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        match self.properties.headers().as_ref()?.inner().get(trace::HEADER) {
            Some(AMQPValue::LongString(text)) => text.to_string().parse().ok(),
            _ => None,
        }
    }

    /// The event as a message that comes back to its endpoint by way of `hop`, with these attempts behind it.
    #[must_use]
    pub fn again(&self, hop: Hop, attempts: &Attempts, until: OffsetDateTime) -> Outgoing {
        let mut headers = self.own_headers();
        insert_attempts(&mut headers, ATTEMPT_HEADER, attempts);
        insert_time(&mut headers, UNTIL_HEADER, until);
        let message = self.in_its_place(LANES_EXCHANGE, hop, headers);
        message.expiring(hop)
    }

    /// The event as a message that goes to the end of its endpoint's queue.
    #[must_use]
    pub fn back(&self) -> Outgoing {
        let mut headers = self.own_headers();
        insert_attempts(&mut headers, ATTEMPT_HEADER, &self.attempts);
        self.in_its_place(LANES_EXCHANGE, Hop::Now, headers)
    }

    /// The event as a message to be parked.
    #[must_use]
    pub fn parked(&self, reason: ParkReason, detail: &str, attempts: &Attempts) -> Outgoing {
        let mut headers = self.marked(kept_headers(self.properties.headers().as_ref()));
        insert_text(&mut headers, REASON_HEADER, reason.code());
        let detail: String = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        insert_text(&mut headers, DETAIL_HEADER, &detail);
        insert_attempts(&mut headers, ATTEMPTS_MADE_HEADER, attempts);
        // By this key it finds its way back.
        self.in_its_place(PARKED_EXCHANGE, "1s", headers)
    }

    /// What the message goes on with while it is under way.
    fn own_headers(&self) -> FieldTable {
        self.marked(without(&kept_headers(self.properties.headers().as_ref()), tells_of_death))
    }

    /// With whose event it is, so that it is found among what is parked, also if the broker parks it; and with its ID.
    fn marked(&self, mut headers: FieldTable) -> FieldTable {
        insert_text(&mut headers, ENDPOINT_HEADER, &self.endpoint);
        insert_text(&mut headers, EVENT_HEADER, self.event.kind.as_deref().unwrap_or_default());
        if self.event.id.is_none() {
            insert_text(&mut headers, ORIGINAL_ID_HEADER, &self.event_id());
        }
        headers
    }

    fn in_its_place(&self, exchange: &'static str, lane: impl Display, headers: FieldTable) -> Outgoing {
        let routing_key = webhook_key(lane, &self.endpoint);
        let properties = carried_on(&self.properties, headers);
        Outgoing { exchange, routing_key, body: self.body.clone(), properties, mandatory: true }
    }
}
