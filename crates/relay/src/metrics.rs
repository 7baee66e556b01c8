use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// What the relays of a process have done since its start. Copies count together.
#[derive(Debug, Clone, Default)]
pub struct RelayMetrics {
    /// Orders whose timeout the broker has confirmed.
    pub orders: Counter,
    /// Events that the broker has confirmed.
    pub events: Counter,
    /// Messages with timeouts or events that the broker has confirmed.
    pub messages: Counter,
    /// Messages that were not confirmed, or came back.
    pub failures: Counter,
}

impl RelayMetrics {
    /// Adds them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("relay_orders", "Orders whose timeout the broker has confirmed", self.orders.clone());
        registry.register("relay_events", "Events that the broker has confirmed", self.events.clone());
        registry.register("relay_messages", "Messages that the broker has confirmed", self.messages.clone());
        registry.register("relay_failures", "Messages that were not confirmed, or came back", self.failures.clone());
    }
}
