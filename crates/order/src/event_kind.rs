use std::fmt;
use std::str::FromStr;

/// A fact that is announced to listeners. Its name is the event's type and its routing key.
///
/// The CHECK on `outbox.event`, the SQL function `overdue_event` and `docs/asyncapi.json` list the same kinds; tests
/// compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// An order was closed: its payment did not come in time.
    OrderClosed,
    /// An order was paid.
    OrderPaid,
    /// A payment came for an order that had ended before: closed, cancelled, or paid by another; it goes back.
    PaymentLate,
    /// Such a payment has arrived at the customer again.
    PaymentRefunded,
    /// An endpoint of webhooks wants nothing more, or an operator has stopped it.
    EndpointStopped,
}

/// A kind of event that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("events of the kind {0:?} are not known to this version")]
pub struct UnknownEvent(pub String);

impl EventKind {
    /// Every kind of event.
    pub const ALL: [Self; 5] =
        [Self::OrderClosed, Self::OrderPaid, Self::PaymentLate, Self::PaymentRefunded, Self::EndpointStopped];

    /// The event's type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderClosed => "order.closed",
            Self::OrderPaid => "order.paid",
            Self::PaymentLate => "payment.late",
            Self::PaymentRefunded => "payment.refunded",
            Self::EndpointStopped => "endpoint.stopped",
        }
    }
}

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownEvent(text.to_owned()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
