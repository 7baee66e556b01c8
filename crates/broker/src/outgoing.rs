use lapin::BasicProperties;
use order::{Attempts, Deadline, Hop, OrderId, Shard, TimeoutId, TimeoutKind};
use time::OffsetDateTime;
use trace::TraceParent;

use crate::headers::{ATTEMPT_HEADER, UNTIL_HEADER, insert_attempts, insert_text, insert_time, with_headers};
use crate::routing::routing_key;
use crate::topology::LANES_EXCHANGE;
use crate::wire;

/// A message that is to be published: always persistent, and mandatory but for events.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(crate) exchange: &'static str,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    /// Whether it counts as published only if a queue has taken it.
    pub(crate) mandatory: bool,
}

impl Outgoing {
    /// A timeout of these orders, or timers (1 to [`wire::ORDERS_MAX`]), of one shard. It waits where `hop` says.
    #[must_use]
    pub fn timeout(kind: TimeoutKind, ids: &[(TimeoutId, Deadline)], hop: Hop, shard: Shard) -> Self {
        Self::json(ids, routing_key(hop, kind, shard)).expiring(hop)
    }

    /// A timeout of one order in the form that foreign publishers use: no more than its ID.
    #[must_use]
    pub fn bare_timeout(kind: TimeoutKind, order: &OrderId, hop: Hop, shard: Shard) -> Self {
        let key = routing_key(hop, kind, shard);
        Self::to_lanes(key, order.as_str().as_bytes().to_vec(), "text/plain").expiring(hop)
    }

    /// The same message, with this many attempts behind it.
    #[must_use]
    pub fn after(mut self, attempts: &Attempts) -> Self {
        self.properties = with_headers(self.properties, |headers| insert_attempts(headers, ATTEMPT_HEADER, attempts));
        self
    }

    /// The same message, which says that it is to come out of its lane then.
    #[must_use]
    pub fn until(mut self, instant: OffsetDateTime) -> Self {
        self.properties = with_headers(self.properties, |headers| insert_time(headers, UNTIL_HEADER, instant));
        self
    }

    /// The same message as part of a trace.
    #[must_use]
    pub fn traced(mut self, traceparent: Option<&TraceParent>) -> Self {
        if let Some(traceparent) = traceparent {
            let add = |headers: &mut _| insert_text(headers, trace::HEADER, traceparent.as_str());
            self.properties = with_headers(self.properties, add);
        }
        self
    }

    /// The key by which the broker routes it.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// Its bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn json(ids: &[(TimeoutId, Deadline)], routing_key: String) -> Self {
        Self::to_lanes(routing_key, wire::encode(ids), "application/json")
    }

    fn to_lanes(routing_key: String, body: Vec<u8>, content_type: &'static str) -> Self {
        let properties = BasicProperties::default().with_content_type(content_type.into());
        Self { exchange: LANES_EXCHANGE, routing_key, body, properties, mandatory: true }
    }

    pub(crate) fn expiring(mut self, hop: Hop) -> Self {
        if let Some(ms) = hop.expiration_ms() {
            self.properties = self.properties.with_expiration(ms.to_string().into());
        }
        self
    }
}
