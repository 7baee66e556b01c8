use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use order::{Deadline, Hop, OrderId};

use crate::topology::{LANES_EXCHANGE, payment_key};
use crate::wire;

/// A message that is to be published: persistent always, and mandatory.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(crate) exchange: &'static str,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
}

/// Delivery mode 2: the message survives a restart of the broker. It carries over when the message is
/// dead-lettered.
pub(crate) const PERSISTENT: u8 = 2;

impl Outgoing {
    /// A payment timeout for these orders (1 to [`wire::ORDERS_MAX`]), to wait where `hop` says.
    #[must_use]
    pub fn payment_timeout(orders: &[(OrderId, Deadline)], hop: Hop) -> Self {
        Self::payment_timeout_body(wire::encode(orders), hop).with_content_type("application/json")
    }

    /// The same for one order and no more than its ID, the form that foreign publishers use.
    #[must_use]
    pub fn bare_payment_timeout(order: &OrderId, hop: Hop) -> Self {
        Self::payment_timeout_body(order.as_str().as_bytes().to_vec(), hop).with_content_type("text/plain")
    }

    fn payment_timeout_body(body: Vec<u8>, hop: Hop) -> Self {
        let mut properties = BasicProperties::default();
        if let Some(ms) = hop.expiration_ms {
            properties = properties.with_expiration(ms.to_string().into());
        }
        Self { exchange: LANES_EXCHANGE, routing_key: payment_key(hop.lane), body, properties }
    }

    fn with_content_type(mut self, content_type: &'static str) -> Self {
        self.properties = self.properties.with_content_type(content_type.into());
        self
    }
}

/// Puts a text header into the table, replacing one of that name.
pub(crate) fn insert_text(headers: &mut FieldTable, name: &'static str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(text.into()));
}
