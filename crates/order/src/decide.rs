use time::OffsetDateTime;

use crate::{Deadline, OrderStatus};

/// What the database says of an order, as far as the decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderFacts {
    /// Where the order stands.
    pub status: OrderStatus,
    /// When it falls due. It may have been extended since the message was sent.
    pub deadline: Deadline,
}

/// What is to be done with an order that a message (or a person) brought to attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It was paid, cancelled or closed already: leave it alone.
    Nothing(OrderStatus),
    /// Its deadline lies ahead: look again then.
    Wait(Deadline),
    /// It is pending and past this deadline: close it.
    Close(Deadline),
    /// The database does not know it: a person must look.
    Unknown,
}

/// Decides from the order as it stands (`None`: the database has no such order) and the database's own time.
///
/// The message that brought the order has no say: early, stale, duplicate and forged messages lead to the
/// same decision as no message at all.
#[must_use]
pub fn decide(order: Option<&OrderFacts>, now: OffsetDateTime) -> Decision {
    match order {
        None => Decision::Unknown,
        Some(order) if order.status != OrderStatus::Pending => Decision::Nothing(order.status),
        Some(order) if order.deadline.is_past(now) => Decision::Close(order.deadline),
        Some(order) => Decision::Wait(order.deadline),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINE: &str = "2026-11-22T08:30:00Z";

    fn order(status: OrderStatus) -> OrderFacts {
        OrderFacts { status, deadline: DEADLINE.parse().unwrap() }
    }

    #[test]
    fn only_a_pending_order_past_its_deadline_closes() {
        let deadline: Deadline = DEADLINE.parse().unwrap();
        let before = deadline.instant() - Duration::from_micros(1);
        let pending = order(OrderStatus::Pending);
        assert_eq!(decide(Some(&pending), before), Decision::Wait(deadline));
        assert_eq!(decide(Some(&pending), deadline.instant()), Decision::Close(deadline));
        for status in [OrderStatus::Paid, OrderStatus::Cancelled, OrderStatus::Closed] {
            for now in [before, deadline.instant() + Duration::from_hours(1)] {
                assert_eq!(decide(Some(&order(status)), now), Decision::Nothing(status));
            }
        }
    }

    #[test]
    fn an_order_that_nobody_knows_is_not_closed() {
        assert_eq!(decide(None, order(OrderStatus::Pending).deadline.instant()), Decision::Unknown);
    }
}
