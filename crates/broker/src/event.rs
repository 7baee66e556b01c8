use lapin::BasicProperties;
use order::{Deadline, OrderId};
use serde::Serialize;
use serde_json::value::RawValue;
use trace::TraceParent;

use crate::Outgoing;
use crate::topology::EVENTS_EXCHANGE;

/// A fact about an order, or a timer, to be announced.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The same each time it is sent. Listeners deduplicate by it.
    pub id: &'a str,
    /// Which deployment tells it: a URI reference.
    pub source: &'a str,
    /// The name of an [`order::EventKind`], or `timer.` and the kind of a timer. A text, so that a relay also sends the events of a newer version.
    pub kind: &'a str,
    /// The order; of a timer: its subject.
    pub subject: &'a OrderId,
    /// When it happened.
    pub time: Deadline,
    /// Its data, as JSON.
    pub data: &'a RawValue,
    /// The trace that it belongs to: an extension of CloudEvents
    /// (<https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md>).
    pub traceparent: Option<&'a TraceParent>,
}

/// The structured JSON form of CloudEvents 1.0
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md>).
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a RawValue,
}

impl From<Event<'_>> for Outgoing {
    /// A CloudEvent whose type is the routing key. It counts as published even if no queue has taken it: there may be no
    /// subscriber.
    fn from(event: Event<'_>) -> Self {
        let body = CloudEvent {
            specversion: "1.0",
            id: event.id,
            source: event.source,
            kind: event.kind,
            subject: event.subject.as_str(),
            time: event.time.to_string(),
            datacontenttype: "application/json",
            traceparent: event.traceparent.map(TraceParent::as_str),
            data: event.data,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let properties = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        Self { exchange: EVENTS_EXCHANGE, routing_key: event.kind.to_owned(), body, properties, mandatory: false }
            .traced(event.traceparent)
    }
}
