use time::OffsetDateTime;

use crate::{Deadline, OrderStatus, ParkReason, PaymentFacts, Receipt, RetryReason, Verdict};

/// What the database says of an order, as far as the decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderFacts {
    /// Where the order stands.
    pub status: OrderStatus,
    /// When it falls due. It may have been extended since the message was sent.
    pub deadline: Deadline,
    /// Its payment at a gateway; `None`: the status alone says whether it was paid.
    pub payment: Option<PaymentFacts>,
}

/// What is to be done with an order that a message (or a person) brought to attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was paid, cancelled or closed already: leave it alone.
    Nothing(OrderStatus),
    /// Its deadline lies ahead: look again then.
    Wait(Deadline),
    /// Only its gateway knows whether it was paid: ask, and decide again with the answer.
    Ask,
    /// It is pending, past this deadline and certainly unpaid: close it.
    Close(Deadline),
    /// It was paid at the gateway: mark it as paid; if it is closed or cancelled already, the money goes back.
    Pay(Receipt),
    /// The gateway could not tell, or not yet: ask again, not before this time where there is one.
    Retry(Retry),
    /// A person must look.
    Park {
        /// Why.
        reason: ParkReason,
        /// What is wrong.
        detail: String,
    },
    /// The database does not know it: a person must look.
    Unknown,
}

/// How an order is to be asked about again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Not before; `None`: by the usual back-off.
    pub at: Option<OffsetDateTime>,
    /// Whether this counts as an attempt. Their number is limited.
    pub counts: bool,
    /// Why.
    pub why: RetryReason,
}

/// Decides from the order as it stands (`None`: the database has no such order), from what its gateway has
/// said (`None`: it was not asked) and from the database's own time.
///
/// The message that brought the order has no say: early, stale, duplicate and forged messages lead to the
/// same decision as no message at all.
#[must_use]
pub fn decide(order: Option<&OrderFacts>, answer: Option<&Verdict>, now: OffsetDateTime) -> Decision {
    let Some(order) = order else { return Decision::Unknown };
    let pending = order.status == OrderStatus::Pending;
    // An order that was closed or cancelled without its gateway having been heard: the trade must be closed
    // there too, or the customer can still pay.
    let abandoned = matches!(order.status, OrderStatus::Closed | OrderStatus::Cancelled)
        && order.payment.as_ref().is_some_and(|payment| payment.open);
    match answer {
        // Money that has come in is never ignored, whatever became of the order meanwhile.
        Some(Verdict::Paid(receipt)) => Decision::Pay(receipt.clone()),
        _ if !pending && !abandoned => Decision::Nothing(order.status),
        _ if !order.deadline.is_past(now) => Decision::Wait(order.deadline),
        // Its gateway would know no such trade, and the order would count as unpaid.
        None if pending && order.payment.as_ref().is_some_and(|payment| payment.amount.minor <= 0) => {
            let detail = "its amount is 0 or less, and it is to be paid at a gateway".to_owned();
            Decision::Park { reason: ParkReason::NothingToPay, detail }
        }
        None if order.payment.is_some() => Decision::Ask,
        None | Some(Verdict::Unpaid | Verdict::Absent) if pending => Decision::Close(order.deadline),
        None | Some(Verdict::Unpaid | Verdict::Absent) => Decision::Nothing(order.status),
        Some(Verdict::NotFoundYet(at)) => {
            Decision::Retry(Retry { at: Some(*at), counts: true, why: RetryReason::NotFoundYet })
        }
        Some(Verdict::Later { at, why, counts }) => {
            Decision::Retry(Retry { at: Some(*at), counts: *counts, why: why.clone() })
        }
        Some(Verdict::Unclear(why)) => {
            Decision::Retry(Retry { at: None, counts: true, why: RetryReason::Unclear(why.clone()) })
        }
        Some(Verdict::Person { reason, detail }) => Decision::Park { reason: *reason, detail: detail.clone() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Money, Prepay};

    const DEADLINE: &str = "2026-11-22T08:30:00Z";

    fn deadline() -> Deadline {
        DEADLINE.parse().unwrap()
    }

    fn order(status: OrderStatus) -> OrderFacts {
        OrderFacts { status, deadline: deadline(), payment: None }
    }

    fn with_payment(status: OrderStatus, open: bool) -> OrderFacts {
        let payment = PaymentFacts {
            gateway: "wechat".to_owned(),
            trade_no: "842317".to_owned(),
            amount: Money { minor: 1999, currency: "CNY".to_owned() },
            prepay: Prepay::Created,
            created_at: deadline().instant() - Duration::from_mins(30),
            not_found_at: None,
            open,
        };
        OrderFacts { payment: Some(payment), ..order(status) }
    }

    fn paid() -> Verdict {
        let amount = Money { minor: 1999, currency: "CNY".to_owned() };
        Verdict::Paid(Receipt { transaction_id: "4200".to_owned(), paid_at: None, amount })
    }

    /// Everything that a gateway may have said which does not mean that the trade is gone.
    fn inconclusive() -> Vec<Verdict> {
        let at = deadline().instant() + Duration::from_mins(1);
        vec![
            Verdict::NotFoundYet(at),
            Verdict::Later { at, why: RetryReason::UserPaying, counts: true },
            Verdict::Unclear("timeout".to_owned()),
            Verdict::Person { reason: ParkReason::PaymentMismatch, detail: String::new() },
        ]
    }

    #[test]
    fn only_a_pending_order_past_its_deadline_closes() {
        let deadline = deadline();
        let before = deadline.instant() - Duration::from_micros(1);
        let pending = order(OrderStatus::Pending);
        assert_eq!(decide(Some(&pending), None, before), Decision::Wait(deadline));
        assert_eq!(decide(Some(&pending), None, deadline.instant()), Decision::Close(deadline));
        for status in [OrderStatus::Paid, OrderStatus::Cancelled, OrderStatus::Closed] {
            for now in [before, deadline.instant() + Duration::from_hours(1)] {
                assert_eq!(decide(Some(&order(status)), None, now), Decision::Nothing(status));
            }
        }
    }

    #[test]
    fn an_order_with_a_payment_closes_only_on_the_word_of_its_gateway() {
        let now = deadline().instant();
        let pending = with_payment(OrderStatus::Pending, true);
        assert_eq!(decide(Some(&pending), None, now), Decision::Ask);
        for gone in [Verdict::Unpaid, Verdict::Absent] {
            assert_eq!(decide(Some(&pending), Some(&gone), now), Decision::Close(deadline()));
        }
        for verdict in inconclusive().iter().chain([&paid()]) {
            let decision = decide(Some(&pending), Some(verdict), now);
            assert!(!matches!(decision, Decision::Close(_) | Decision::Nothing(_)), "{verdict:?}: {decision:?}");
        }
    }

    #[test]
    fn an_extension_that_came_while_the_gateway_was_asked_holds() {
        let before = deadline().instant() - Duration::from_secs(1);
        let pending = with_payment(OrderStatus::Pending, true);
        assert_eq!(decide(Some(&pending), Some(&Verdict::Unpaid), before), Decision::Wait(deadline()));
    }

    #[test]
    fn money_is_never_ignored() {
        for status in [OrderStatus::Pending, OrderStatus::Paid, OrderStatus::Cancelled, OrderStatus::Closed] {
            let decision = decide(Some(&with_payment(status, false)), Some(&paid()), deadline().instant());
            assert!(matches!(decision, Decision::Pay(_)), "{status}: {decision:?}");
        }
    }

    #[test]
    fn an_abandoned_trade_is_closed_at_the_gateway_too() {
        let now = deadline().instant();
        for status in [OrderStatus::Cancelled, OrderStatus::Closed] {
            let abandoned = with_payment(status, true);
            assert_eq!(decide(Some(&abandoned), None, now), Decision::Ask);
            assert_eq!(decide(Some(&abandoned), Some(&Verdict::Unpaid), now), Decision::Nothing(status));
            assert_eq!(decide(Some(&with_payment(status, false)), None, now), Decision::Nothing(status));
        }
        assert_eq!(
            decide(Some(&with_payment(OrderStatus::Paid, true)), None, now),
            Decision::Nothing(OrderStatus::Paid)
        );
    }

    #[test]
    fn an_order_that_nobody_knows_is_not_closed() {
        assert_eq!(decide(None, None, deadline().instant()), Decision::Unknown);
    }
}
