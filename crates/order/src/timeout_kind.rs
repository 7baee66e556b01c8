use std::fmt;
use std::str::FromStr;

/// What is due when a message leaves its lane. It is the second word of the routing key (`30m.payment`).
///
/// Everything that exists once for each kind loops over [`TimeoutKind::ALL`]: bindings, due queues, rights, pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutKind {
    /// The payment deadline of an order.
    Payment,
    /// The next question to an order's payment gateway.
    Gateway,
    /// The moment of a timer, of whatever kind its owner calls it.
    Timer,
}

/// A kind of timeout that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timeouts of the kind {0:?} are not known to this version")]
pub struct UnknownKind(pub String);

impl TimeoutKind {
    /// Every kind that this version knows.
    pub const ALL: [Self; 3] = [Self::Payment, Self::Gateway, Self::Timer];

    /// Whether whoever receives it holds it until it is due. It may come early then; the others are handled when they come.
    #[must_use]
    pub fn is_held(self) -> bool {
        match self {
            Self::Payment | Self::Timer => true,
            Self::Gateway => false,
        }
    }

    /// The word in routing keys and in names of queues.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Gateway => "gateway",
            Self::Timer => "timer",
        }
    }
}

impl FromStr for TimeoutKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_words_are_kinds() {
        for kind in TimeoutKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        for word in ["", "PAYMENT", "payments", "receipt"] {
            assert_eq!(word.parse::<TimeoutKind>(), Err(UnknownKind(word.to_owned())));
        }
    }
}
