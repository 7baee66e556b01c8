use std::fmt;

use crate::{BadOrderId, BadTimerId, OrderId, TimeoutKind, TimerId};

/// What a timeout is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutId {
    /// An order.
    Order(OrderId),
    /// A timer.
    Timer(TimerId),
}

/// Why a text names nothing that a timeout of its kind could be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTimeoutId {
    /// No order.
    #[error(transparent)]
    Order(#[from] BadOrderId),
    /// No timer.
    #[error(transparent)]
    Timer(#[from] BadTimerId),
}

impl TimeoutId {
    /// Reads the name that a timeout of this kind has.
    ///
    /// # Errors
    /// [`BadTimeoutId`].
    pub fn parse(kind: TimeoutKind, text: &str) -> Result<Self, BadTimeoutId> {
        Ok(match kind {
            TimeoutKind::Payment | TimeoutKind::Gateway => Self::Order(OrderId::new(text)?),
            TimeoutKind::Timer => Self::Timer(text.parse()?),
        })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Order(id) => id.as_str(),
            Self::Timer(id) => id.as_str(),
        }
    }

    /// The kind of the timeout at which it is due: the deadline of an order, the moment of a timer.
    #[must_use]
    pub fn due_kind(&self) -> TimeoutKind {
        match self {
            Self::Order(_) => TimeoutKind::Payment,
            Self::Timer(_) => TimeoutKind::Timer,
        }
    }

    /// The order, if it is one.
    #[must_use]
    pub fn order(&self) -> Option<&OrderId> {
        match self {
            Self::Order(id) => Some(id),
            Self::Timer(_) => None,
        }
    }

    /// The timer, if it is one.
    #[must_use]
    pub fn timer(&self) -> Option<&TimerId> {
        match self {
            Self::Order(_) => None,
            Self::Timer(id) => Some(id),
        }
    }
}

impl From<OrderId> for TimeoutId {
    fn from(id: OrderId) -> Self {
        Self::Order(id)
    }
}

impl From<TimerId> for TimeoutId {
    fn from(id: TimerId) -> Self {
        Self::Timer(id)
    }
}

impl fmt::Display for TimeoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TimeoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
