use std::fmt;
use std::str::FromStr;

/// Where an order stands. Everything but `Pending` is final for this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    /// Waiting for its payment; its stock is reserved.
    Pending,
    /// Paid; its stock is sold.
    Paid,
    /// Given up by the customer or the shop; its stock is back.
    Cancelled,
    /// Not paid in time; its stock is back.
    Closed,
}

/// A status that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown order status {0:?}")]
pub struct BadStatus(String);

impl OrderStatus {
    /// The name under which the status stands in the database and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
        }
    }
}

impl FromStr for OrderStatus {
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Paid, Self::Cancelled, Self::Closed]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| BadStatus(text.to_owned()))
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
