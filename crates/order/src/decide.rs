use time::OffsetDateTime;

use crate::{Deadline, OrderStatus, ParkReason, PaymentFacts, PaymentState, Receipt, RetryReason, Verdict};

/// What the database says of an order, as far as the decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderFacts {
    /// Where the order stands.
    pub status: OrderStatus,
    /// When it falls due. It may have been extended since the message was sent.
    pub deadline: Deadline,
    /// Attempts to pay it at gateways. None: the status alone says whether it was paid.
    pub payments: Vec<PaymentFacts>,
}

impl OrderFacts {
    /// The attempts that may still bring money: before they cannot, the order does not close. Of an order that has ended they are
    /// closed at their gateways.
    pub fn payable(&self) -> impl Iterator<Item = &PaymentFacts> {
        let pending = self.status == OrderStatus::Pending;
        // An order that is pending although a row says `paid` is one that its gateway is to be asked about.
        self.payments.iter().filter(move |payment| match payment.state {
            PaymentState::Open => true,
            PaymentState::Paid => pending,
            PaymentState::Closed => false,
        })
    }
}

/// What an attempt to learn how a payment stands has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<'a> {
    /// The payment, as its gateway was asked about it.
    pub payment: &'a PaymentFacts,
    /// What came of it.
    pub verdict: &'a Verdict,
}

/// What is to be done with an order that a message (or a person) brought to attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It was paid, cancelled or closed already, and none of its payments needs more now.
    Nothing(OrderStatus),
    /// Its deadline lies ahead: look again then.
    Wait(Deadline),
    /// Only gateways know whether it was paid: ask about these payments, and decide again with the answers.
    Ask(Vec<&'a PaymentFacts>),
    /// It is pending, past this deadline and certainly unpaid: close it.
    Close(Deadline),
    /// This payment was made: mark the order as paid; if it has ended already, the money goes back.
    Pay(&'a PaymentFacts, &'a Receipt),
    /// A gateway cannot be asked now, about any order, for this reason.
    Hold(&'a str),
    /// A gateway could not tell, or not yet: ask again, not before this time where there is one.
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

/// Decides from the order as it stands (`None`: the database has no such order), from what its gateways have
/// said and from the database's own time.
///
/// The message that brought the order has no say: early, stale, duplicate and forged messages lead to the
/// same decision as no message at all.
#[must_use]
pub fn decide<'a>(order: Option<&'a OrderFacts>, heard: &[Heard<'a>], now: OffsetDateTime) -> Decision<'a> {
    let Some(order) = order else { return Decision::Unknown };
    // Money that has come in is never ignored, whatever became of the order meanwhile.
    if let Some((payment, receipt)) = heard.iter().find_map(paid) {
        return Decision::Pay(payment, receipt);
    }
    let pending = order.status == OrderStatus::Pending;
    if pending && !order.deadline.is_past(now) {
        return Decision::Wait(order.deadline);
    }
    let about = |payment: &PaymentFacts| heard.iter().find(|heard| heard.payment.is_of_trade(payment));
    // Its gateway would know no such trade, and the order would count as unpaid.
    if pending && order.payable().any(|payment| payment.amount.minor <= 0 && about(payment).is_none()) {
        let detail = "its amount is 0 or less, and it is to be paid at a gateway".to_owned();
        return Decision::Park { reason: ParkReason::NothingToPay, detail };
    }
    let unheard: Vec<&PaymentFacts> = order.payable().filter(|payment| about(payment).is_none()).collect();
    if !unheard.is_empty() {
        return Decision::Ask(unheard);
    }
    unsettled(heard, pending).unwrap_or(match order.status {
        OrderStatus::Pending => Decision::Close(order.deadline),
        status => Decision::Nothing(status),
    })
}

fn paid<'a>(heard: &Heard<'a>) -> Option<(&'a PaymentFacts, &'a Receipt)> {
    match heard.verdict {
        Verdict::Paid(receipt) => Some((heard.payment, receipt)),
        _ => None,
    }
}

/// What keeps an order open of which no payment was made. `None`: each of them is gone.
fn unsettled<'a>(heard: &[Heard<'a>], pending: bool) -> Option<Decision<'a>> {
    let mut retry: Option<Retry> = None;
    let mut hold = None;
    for Heard { verdict, .. } in heard {
        let next = match verdict {
            Verdict::Person { reason, detail, .. } if pending => {
                return Some(Decision::Park { reason: *reason, detail: detail.clone() });
            }
            // An order that has ended keeps nobody waiting: its money, if there is any, is on record for a person.
            Verdict::Person { .. } | Verdict::Unpaid | Verdict::Absent { .. } | Verdict::Paid(_) => continue,
            Verdict::Held(why) => {
                hold = hold.or(Some(Decision::Hold(why)));
                continue;
            }
            Verdict::NotFoundYet(at) => Retry { at: Some(*at), counts: true, why: RetryReason::NotFoundYet },
            Verdict::Later { at, why } => Retry { at: Some(*at), counts: false, why: why.clone() },
            Verdict::Unclear(why) => Retry { at: None, counts: true, why: RetryReason::Unclear(why.clone()) },
        };
        // Where several keep it open, the last time counts; and no time at all before any.
        retry = match retry {
            Some(known) if known.at.is_none() || (next.at.is_some() && known.at >= next.at) => Some(known),
            _ => Some(next),
        };
    }
    hold.or(retry.map(Decision::Retry))
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
        OrderFacts { status, deadline: deadline(), payments: Vec::new() }
    }

    fn payment(trade_no: &str, state: PaymentState) -> PaymentFacts {
        PaymentFacts {
            gateway: "wechat".to_owned(),
            trade_no: trade_no.to_owned(),
            amount: Money { minor: 1999, currency: "CNY".to_owned() },
            prepay: Prepay::Created,
            created_at: deadline().instant() - Duration::from_mins(30),
            not_found_at: None,
            payable_until: None,
            state,
        }
    }

    fn with_payment(status: OrderStatus, state: PaymentState) -> OrderFacts {
        OrderFacts { payments: vec![payment("842317", state)], ..order(status) }
    }

    fn paid() -> Verdict {
        let amount = Money { minor: 1999, currency: "CNY".to_owned() };
        Verdict::Paid(Receipt { transaction_id: "4200".to_owned(), paid_at: None, amount, combined: false })
    }

    fn absent() -> Verdict {
        Verdict::Absent { payable_until: deadline().instant() + Duration::from_hours(24) }
    }

    /// Everything that a gateway may have said which does not mean that the trade is gone.
    fn inconclusive() -> Vec<Verdict> {
        let at = deadline().instant() + Duration::from_mins(1);
        vec![
            Verdict::NotFoundYet(at),
            Verdict::Later { at, why: RetryReason::UserPaying },
            Verdict::Held("wrong key".to_owned()),
            Verdict::Unclear("timeout".to_owned()),
            Verdict::person(ParkReason::PaymentMismatch, String::new()),
        ]
    }

    /// The decision about an order when this was heard of its payments, in their order, just after its deadline.
    fn decided<'a>(order: &'a OrderFacts, verdicts: &'a [Verdict]) -> Decision<'a> {
        let heard: Vec<Heard<'a>> =
            order.payments.iter().zip(verdicts).map(|(payment, verdict)| Heard { payment, verdict }).collect();
        decide(Some(order), &heard, deadline().instant())
    }

    #[test]
    fn only_a_pending_order_past_its_deadline_closes() {
        let deadline = deadline();
        let before = deadline.instant() - Duration::from_micros(1);
        let pending = order(OrderStatus::Pending);
        assert_eq!(decide(Some(&pending), &[], before), Decision::Wait(deadline));
        assert_eq!(decide(Some(&pending), &[], deadline.instant()), Decision::Close(deadline));
        for status in [OrderStatus::Paid, OrderStatus::Cancelled, OrderStatus::Closed] {
            for now in [before, deadline.instant() + Duration::from_hours(1)] {
                assert_eq!(decide(Some(&order(status)), &[], now), Decision::Nothing(status));
            }
        }
    }

    #[test]
    fn an_order_with_a_payment_closes_only_on_the_word_of_its_gateway() {
        for state in [PaymentState::Open, PaymentState::Paid] {
            let pending = with_payment(OrderStatus::Pending, state);
            assert_eq!(decided(&pending, &[]), Decision::Ask(vec![&pending.payments[0]]));
            for gone in [Verdict::Unpaid, absent()] {
                assert_eq!(decided(&pending, &[gone]), Decision::Close(deadline()));
            }
            for verdict in inconclusive().into_iter().chain([paid()]) {
                let verdicts = [verdict];
                let decision = decided(&pending, &verdicts);
                assert!(!matches!(decision, Decision::Close(_) | Decision::Nothing(_)), "{verdicts:?}: {decision:?}");
            }
        }
        let gone = with_payment(OrderStatus::Pending, PaymentState::Closed);
        assert_eq!(decided(&gone, &[]), Decision::Close(deadline()), "its gateway has said so before");
    }

    #[test]
    fn an_order_closes_only_when_each_of_its_payments_is_gone() {
        let (first, second) = (payment("1", PaymentState::Open), payment("2", PaymentState::Open));
        let elsewhere = PaymentFacts { gateway: "http".to_owned(), ..payment("1", PaymentState::Open) };
        let payments = vec![first, second, elsewhere];
        let several = OrderFacts { payments, ..order(OrderStatus::Pending) };
        assert_eq!(decided(&several, &[]), Decision::Ask(several.payments.iter().collect()));
        let some = [Verdict::Unpaid, absent()];
        assert_eq!(decided(&several, &some), Decision::Ask(vec![&several.payments[2]]), "the same number elsewhere");
        assert_eq!(decided(&several, &[Verdict::Unpaid, absent(), Verdict::Unpaid]), Decision::Close(deadline()));
        for verdict in inconclusive() {
            for place in 0..3 {
                let mut verdicts = [Verdict::Unpaid, absent(), Verdict::Unpaid];
                verdicts[place] = verdict.clone();
                let decision = decided(&several, &verdicts);
                assert!(!matches!(decision, Decision::Close(_) | Decision::Pay(..)), "{verdicts:?}: {decision:?}");
                verdicts[(place + 1) % 3] = paid();
                let decision = decided(&several, &verdicts);
                assert!(matches!(decision, Decision::Pay(..)), "{verdicts:?}: {decision:?}");
            }
        }
    }

    #[test]
    fn the_last_of_several_times_counts() {
        let payments = vec![payment("1", PaymentState::Open), payment("2", PaymentState::Open)];
        let several = OrderFacts { payments, ..order(OrderStatus::Pending) };
        let (soon, late) =
            (deadline().instant() + Duration::from_secs(5), deadline().instant() + Duration::from_secs(30));
        let paying = Verdict::Later { at: soon, why: RetryReason::UserPaying };
        let missing = Verdict::NotFoundYet(late);
        let unclear = Verdict::Unclear("timeout".to_owned());
        let at = |verdicts: &[Verdict]| match decided(&several, verdicts) {
            Decision::Retry(retry) => (retry.at, retry.counts),
            other => panic!("{other:?}"),
        };
        for swap in [false, true] {
            let ordered = |mut verdicts: [Verdict; 2]| {
                if swap {
                    verdicts.reverse();
                }
                verdicts
            };
            assert_eq!(at(&ordered([paying.clone(), missing.clone()])), (Some(late), true));
            assert_eq!(at(&ordered([paying.clone(), Verdict::Unpaid])), (Some(soon), false));
            assert_eq!(at(&ordered([unclear.clone(), missing.clone()])), (None, true), "by the back-off");
        }
    }

    #[test]
    fn an_extension_that_came_while_the_gateway_was_asked_holds() {
        let before = deadline().instant() - Duration::from_secs(1);
        let pending = with_payment(OrderStatus::Pending, PaymentState::Open);
        let heard = [Heard { payment: &pending.payments[0], verdict: &Verdict::Unpaid }];
        assert_eq!(decide(Some(&pending), &heard, before), Decision::Wait(deadline()));
    }

    #[test]
    fn money_is_never_ignored() {
        for status in [OrderStatus::Pending, OrderStatus::Paid, OrderStatus::Cancelled, OrderStatus::Closed] {
            let (order, verdicts) = (with_payment(status, PaymentState::Closed), [paid()]);
            let decision = decided(&order, &verdicts);
            assert!(matches!(decision, Decision::Pay(..)), "{status}: {decision:?}");
        }
    }

    #[test]
    fn what_an_order_that_has_ended_leaves_open_is_closed_at_the_gateway_too_whatever_its_deadline() {
        for status in [OrderStatus::Closed, OrderStatus::Cancelled, OrderStatus::Paid] {
            let open = with_payment(status, PaymentState::Open);
            assert_eq!(decided(&open, &[]), Decision::Ask(vec![&open.payments[0]]));
            let early = deadline().instant() - Duration::from_hours(1);
            assert_eq!(decide(Some(&open), &[], early), Decision::Ask(vec![&open.payments[0]]));
            for gone in [Verdict::Unpaid, absent(), Verdict::person(ParkReason::TradeMissing, String::new())] {
                assert_eq!(decided(&open, &[gone]), Decision::Nothing(status));
            }
            for state in [PaymentState::Paid, PaymentState::Closed] {
                assert_eq!(decided(&with_payment(status, state), &[]), Decision::Nothing(status));
            }
        }
    }

    #[test]
    fn an_order_that_nobody_knows_is_not_closed() {
        assert_eq!(decide(None, &[], deadline().instant()), Decision::Unknown);
    }
}
