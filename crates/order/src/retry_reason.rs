use std::fmt;

/// Why an order is looked at again later. It stands in the message's history of attempts and in logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RetryReason {
    /// The gateway knows no such trade, and it may be on its way.
    NotFoundYet,
    /// The trade is too young to be closed at the gateway.
    TooEarly,
    /// The customer is paying at this moment.
    UserPaying,
    /// The customer has agreed to pay; the shop is to take the money, or to let it go.
    Authorized,
    /// The gateway closes no trades; this one expires by itself.
    NotClosable,
    /// Another transaction holds the order's row, or the timer's, locked.
    Locked,
    /// The order book does not know the order yet.
    UnknownOrder,
    /// There is no such timer yet.
    UnknownTimer,
    /// The gateway gave no answer from which anything follows; what it gave instead.
    Unclear(String),
}

impl fmt::Display for RetryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFoundYet => "not_found_yet",
            Self::TooEarly => "too_early",
            Self::UserPaying => "user_paying",
            Self::Authorized => "authorized",
            Self::NotClosable => "not_closable",
            Self::Locked => "locked",
            Self::UnknownOrder => "unknown_order",
            Self::UnknownTimer => "unknown_timer",
            Self::Unclear(answer) => answer,
        })
    }
}
