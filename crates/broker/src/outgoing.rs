use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use order::{Deadline, Hop, OrderId};

use crate::topology::{GATEWAY_KIND, LANES_EXCHANGE, NOW, PAYMENT_KIND};
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

/// How often an order was looked at in vain. Our own header: RabbitMQ 4 ignores a client's `x-death`, and a message
/// that is published anew starts without one.
pub(crate) const ATTEMPT_HEADER: &str = "x-overdue-attempt";

impl Outgoing {
    /// A payment timeout for these orders (1 to [`wire::ORDERS_MAX`]), to wait where `hop` says.
    #[must_use]
    pub fn payment_timeout(orders: &[(OrderId, Deadline)], hop: Hop) -> Self {
        Self::json(orders, format!("{}.{PAYMENT_KIND}", hop.lane)).expiring(hop)
    }

    /// The same for one order and no more than its ID, the form that foreign publishers use.
    #[must_use]
    pub fn bare_payment_timeout(order: &OrderId, hop: Hop) -> Self {
        let key = format!("{}.{PAYMENT_KIND}", hop.lane);
        Self::new(key, order.as_str().as_bytes().to_vec(), "text/plain").expiring(hop)
    }

    /// Orders (1 to [`wire::ORDERS_MAX`]) whose gateways are to be asked at once.
    #[must_use]
    pub fn gateway_check(orders: &[(OrderId, Deadline)]) -> Self {
        Self::json(orders, format!("{NOW}.{GATEWAY_KIND}"))
    }

    /// Orders (1 to [`wire::ORDERS_MAX`]) whose gateways are to be asked again, after so many attempts in vain.
    #[must_use]
    pub fn later_gateway_check(orders: &[(OrderId, Deadline)], hop: Hop, attempt: u32) -> Self {
        let mut message = Self::json(orders, format!("{}.{GATEWAY_KIND}", hop.lane)).expiring(hop);
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT_HEADER.into(), AMQPValue::LongUInt(attempt));
        message.properties = message.properties.with_headers(headers);
        message
    }

    fn json(orders: &[(OrderId, Deadline)], routing_key: String) -> Self {
        Self::new(routing_key, wire::encode(orders), "application/json")
    }

    fn new(routing_key: String, body: Vec<u8>, content_type: &'static str) -> Self {
        let properties = BasicProperties::default().with_content_type(content_type.into());
        Self { exchange: LANES_EXCHANGE, routing_key, body, properties }
    }

    fn expiring(mut self, hop: Hop) -> Self {
        if let Some(ms) = hop.expiration_ms {
            self.properties = self.properties.with_expiration(ms.to_string().into());
        }
        self
    }
}

/// Puts a text header into the table, replacing one of that name.
pub(crate) fn insert_text(headers: &mut FieldTable, name: &'static str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(text.into()));
}
