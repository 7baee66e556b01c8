//! The close protocol: query, close at the gateway, query again, and only then close here.
//!
//! One attempt is at most three calls. [`next_step`] decides, without any I/O, which call comes next and what follows from
//! the answers. The worker and the model checker in the tests both follow it.

use std::time::Duration;

use time::OffsetDateTime;

use crate::{
    CloseOutcome, MoneyTold, ParkReason, PaymentFacts, Prepay, Receipt, RetryReason, Trade, TradeState,
    is_transaction_id,
};

/// The gateway's last answer within an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayAnswer<'a> {
    /// Nothing yet.
    Nothing,
    /// The answer to a query.
    Trade {
        /// What the gateway said.
        trade: &'a Trade,
        /// Whether the gateway had been told to close the trade before, within this attempt.
        after_close: bool,
    },
    /// The answer to a close.
    Close(CloseOutcome),
}

/// What to do next within an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask how the trade stands.
    Query,
    /// Tell the gateway to close it.
    Close,
    /// The attempt is over.
    Conclude(Verdict),
}

/// What an attempt has shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The gateway says that it was not paid and can no longer be paid.
    Unpaid,
    /// The gateway knows no such trade, and that is to be believed. A trade that appears all the same is caught
    /// by looking again later.
    Absent {
        /// Until then the trade may appear.
        payable_until: OffsetDateTime,
    },
    /// Paid as it should be.
    Paid(Receipt),
    /// The gateway knows no such trade, but it may be on its way: to be asked again at this time.
    NotFoundYet(OffsetDateTime),
    /// To be asked again, not before this time.
    Later {
        /// When.
        at: OffsetDateTime,
        /// Why.
        why: RetryReason,
    },
    /// The gateway cannot be asked now, about any order, for this reason.
    Held(String),
    /// Nothing can be concluded, for this reason; to be asked again.
    Unclear(String),
    /// A person must look.
    Person {
        /// Why.
        reason: ParkReason,
        /// What is wrong.
        detail: String,
        /// Money that has come in all the same.
        money: Option<Box<MoneyTold>>,
    },
}

impl Verdict {
    /// For a person, and no money is at stake.
    #[must_use]
    pub fn person(reason: ParkReason, detail: String) -> Self {
        Self::Person { reason, detail, money: None }
    }
}

/// The times that the protocol keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseRules {
    /// A trade younger than this is not closed at the gateway.
    pub min_close_age: Duration,
    /// How long a customer who is just paying is left alone; five seconds or more.
    pub user_paying_wait: Duration,
    /// How far apart two answers "no such trade" must be before they are believed.
    pub not_found_gap: Duration,
    /// How long a gateway must deny a trade that it had confirmed before a person must look. Errors are not signed, and one may
    /// be a proxy's.
    pub denied_for: Duration,
    /// How long after it was begun a trade that the gateway does not know may still appear there.
    pub payable_for: Duration,
}

impl Default for CloseRules {
    fn default() -> Self {
        Self {
            min_close_age: Duration::ZERO,
            user_paying_wait: Duration::from_secs(5),
            not_found_gap: Duration::from_secs(30),
            denied_for: Duration::from_mins(5),
            payable_for: Duration::from_hours(24),
        }
    }
}

/// The next step after this answer, for an order that is past its deadline. Only a positive answer of the
/// gateway leads to [`Verdict::Unpaid`]; whatever is not understood stays unclear.
#[must_use]
pub fn next_step(payment: &PaymentFacts, rules: &CloseRules, answer: &GatewayAnswer<'_>, now: OffsetDateTime) -> Step {
    match answer {
        GatewayAnswer::Nothing => Step::Query,
        GatewayAnswer::Trade { trade, after_close } => after_query(payment, rules, trade, *after_close, now),
        GatewayAnswer::Close(outcome) => match outcome {
            // None of these is proof. A close that was accepted may still lose against a payment.
            CloseOutcome::Accepted | CloseOutcome::AlreadyClosed | CloseOutcome::AlreadyPaid => Step::Query,
            CloseOutcome::InProgress => Step::Conclude(user_paying(rules, now)),
            CloseOutcome::TooEarly => Step::Conclude(Verdict::Later {
                at: now + rules.min_close_age.max(rules.user_paying_wait),
                why: RetryReason::TooEarly,
            }),
            // It was not paid a moment ago, and after this time it cannot be.
            CloseOutcome::Unsupported => {
                let at = payable_until(payment, rules);
                Step::Conclude(if now >= at {
                    Verdict::Unpaid
                } else {
                    Verdict::Later { at, why: RetryReason::NotClosable }
                })
            }
            CloseOutcome::NotFound => {
                unclear("the gateway knew the trade, and when it was to close it knew it no more")
            }
        },
    }
}

fn after_query(
    payment: &PaymentFacts,
    rules: &CloseRules,
    trade: &Trade,
    after_close: bool,
    now: OffsetDateTime,
) -> Step {
    if let Some(discrepancy) = &trade.discrepancy {
        let has_money = matches!(trade.state, TradeState::Paid | TradeState::Refunded);
        let money = has_money.then(|| Box::new(trade.money()));
        let (reason, detail) = (ParkReason::PaymentMismatch, discrepancy.clone());
        return Step::Conclude(Verdict::Person { reason, detail, money });
    }
    match &trade.state {
        TradeState::Paid => paid(payment, trade),
        TradeState::Closed | TradeState::Revoked => Step::Conclude(Verdict::Unpaid),
        TradeState::Refunded => misplaced(
            trade,
            ParkReason::RefundedAtGateway,
            "the trade was paid, and some or all of it was refunded, not by this program".to_owned(),
        ),
        TradeState::UserPaying => Step::Conclude(user_paying(rules, now)),
        TradeState::Authorized => {
            Step::Conclude(Verdict::Later { at: now + rules.user_paying_wait, why: RetryReason::Authorized })
        }
        TradeState::NotPaid | TradeState::Failed if after_close => {
            unclear("told to close, the gateway says unpaid still")
        }
        TradeState::NotPaid | TradeState::Failed => {
            let at = payment.created_at + rules.min_close_age;
            if now < at {
                return Step::Conclude(Verdict::Later { at, why: RetryReason::TooEarly });
            }
            Step::Close
        }
        TradeState::NotFound if after_close => unclear("told to close, the gateway knows no such trade any more"),
        TradeState::NotFound => Step::Conclude(not_found(payment, rules, now)),
        TradeState::Unrecognized(name) => unclear(&format!("the trade's state is {name:?}, which is not known here")),
    }
}

fn paid(payment: &PaymentFacts, trade: &Trade) -> Step {
    let (Some(transaction_id), Some(amount)) = (&trade.transaction_id, &trade.amount) else {
        return mismatch(trade, "paid, but without a transaction ID or an amount".to_owned());
    };
    if !is_transaction_id(transaction_id) {
        let bytes = transaction_id.len();
        return mismatch(trade, format!("paid, but with a transaction ID of {bytes} bytes, or odd ones"));
    }
    if trade.refunded_minor > 0 {
        let detail =
            format!("the trade was paid, and {} of it was refunded, not by this program", trade.refunded_minor);
        return misplaced(trade, ParkReason::RefundedAtGateway, detail);
    }
    if *amount != payment.amount {
        return mismatch(trade, format!("{amount} was paid, {} was to be paid", payment.amount));
    }
    Step::Conclude(Verdict::Paid(Receipt {
        transaction_id: transaction_id.clone(),
        paid_at: trade.paid_at,
        amount: amount.clone(),
        combined: trade.combined,
    }))
}

fn mismatch(trade: &Trade, detail: String) -> Step {
    misplaced(trade, ParkReason::PaymentMismatch, detail)
}

/// Money that has come in and is not what was to be paid.
fn misplaced(trade: &Trade, reason: ParkReason, detail: String) -> Step {
    Step::Conclude(Verdict::Person { reason, detail, money: Some(Box::new(trade.money())) })
}

/// Whether "no such trade" is to be believed depends on what the shop knows: it may never have called the
/// gateway, its call may still be on its way, or the gateway has said before that the trade exists.
fn not_found(payment: &PaymentFacts, rules: &CloseRules, now: OffsetDateTime) -> Verdict {
    let payable_until = payable_until(payment, rules);
    let missed_for = |time: Duration| payment.not_found_at.is_some_and(|at| now - at >= time);
    match payment.prepay {
        Prepay::None => Verdict::Absent { payable_until },
        Prepay::Attempted if missed_for(rules.not_found_gap) => Verdict::Absent { payable_until },
        Prepay::Attempted => Verdict::NotFoundYet(payment.not_found_at.unwrap_or(now) + rules.not_found_gap),
        Prepay::Created if missed_for(rules.denied_for) => Verdict::person(
            ParkReason::TradeMissing,
            "the gateway had confirmed the trade and now knows no such trade".to_owned(),
        ),
        Prepay::Created => Verdict::NotFoundYet(now + rules.not_found_gap),
    }
}

fn payable_until(payment: &PaymentFacts, rules: &CloseRules) -> OffsetDateTime {
    payment.payable_until.unwrap_or_else(|| payment.created_at + rules.payable_for)
}

fn user_paying(rules: &CloseRules, now: OffsetDateTime) -> Verdict {
    Verdict::Later { at: now + rules.user_paying_wait, why: RetryReason::UserPaying }
}

fn unclear(why: &str) -> Step {
    Step::Conclude(Verdict::Unclear(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Deadline, Money, PaymentState};

    fn now() -> OffsetDateTime {
        "2026-11-22T08:30:00Z".parse::<Deadline>().unwrap().instant()
    }

    fn cny(minor: i64) -> Money {
        Money { minor, currency: "CNY".to_owned() }
    }

    fn payment(prepay: Prepay) -> PaymentFacts {
        PaymentFacts {
            gateway: "wechat".to_owned(),
            trade_no: "842317".to_owned(),
            amount: cny(1999),
            prepay,
            created_at: now() - Duration::from_mins(30),
            not_found_at: None,
            payable_until: None,
            state: PaymentState::Open,
        }
    }

    fn query(payment: &PaymentFacts, trade: &Trade, after_close: bool) -> Step {
        next_step(payment, &CloseRules::default(), &GatewayAnswer::Trade { trade, after_close }, now())
    }

    fn state(state: TradeState, after_close: bool) -> Step {
        query(&payment(Prepay::Created), &Trade::in_state(state), after_close)
    }

    fn concluded(step: Step) -> Verdict {
        let Step::Conclude(verdict) = step else { panic!("{step:?} concludes nothing") };
        verdict
    }

    #[test]
    fn nothing_but_closed_and_revoked_means_unpaid() {
        for after_close in [false, true] {
            for gone in [TradeState::Closed, TradeState::Revoked] {
                assert_eq!(concluded(state(gone, after_close)), Verdict::Unpaid);
            }
            for other in [
                TradeState::NotPaid,
                TradeState::UserPaying,
                TradeState::Authorized,
                TradeState::Paid,
                TradeState::Refunded,
                TradeState::Failed,
                TradeState::NotFound,
                TradeState::Unrecognized("ACCEPT".to_owned()),
            ] {
                let step = state(other.clone(), after_close);
                assert!(
                    !matches!(step, Step::Conclude(Verdict::Unpaid | Verdict::Absent { .. })),
                    "{other:?}, after_close {after_close}: {step:?}"
                );
            }
        }
        for outcome in [
            CloseOutcome::Accepted,
            CloseOutcome::AlreadyClosed,
            CloseOutcome::AlreadyPaid,
            CloseOutcome::InProgress,
            CloseOutcome::NotFound,
            CloseOutcome::TooEarly,
            CloseOutcome::Unsupported,
        ] {
            let step =
                next_step(&payment(Prepay::Created), &CloseRules::default(), &GatewayAnswer::Close(outcome), now());
            assert!(!matches!(step, Step::Conclude(Verdict::Unpaid | Verdict::Absent { .. })), "{outcome:?}: {step:?}");
        }
    }

    #[test]
    fn an_attempt_ends_after_three_calls() {
        assert_eq!(state(TradeState::NotPaid, false), Step::Close);
        assert_eq!(state(TradeState::Failed, false), Step::Close);
        for still in [TradeState::NotPaid, TradeState::Failed, TradeState::NotFound] {
            assert!(matches!(concluded(state(still, true)), Verdict::Unclear(_)));
        }
    }

    #[test]
    fn what_was_paid_must_be_what_was_to_be_paid() {
        let trade = |minor, currency: &str| Trade {
            transaction_id: Some("4200".to_owned()),
            amount: Some(Money { minor, currency: currency.to_owned() }),
            ..Trade::in_state(TradeState::Paid)
        };
        let verdict = |trade: &Trade| concluded(query(&payment(Prepay::Created), trade, false));
        assert!(matches!(verdict(&trade(1999, "CNY")), Verdict::Paid(receipt) if receipt.transaction_id == "4200"));
        let partly = Trade { refunded_minor: 1, ..trade(1999, "CNY") };
        assert!(matches!(verdict(&partly), Verdict::Person { reason: ParkReason::RefundedAtGateway, .. }));
        for wrong in [trade(1998, "CNY"), trade(1999, "USD")] {
            assert!(matches!(verdict(&wrong), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
        }
        let foreign = Trade { discrepancy: Some("another merchant".to_owned()), ..trade(1999, "CNY") };
        assert!(matches!(verdict(&foreign), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
        for odd in ["9".repeat(9000), "a\0b".to_owned(), String::new()] {
            let odd = Trade { transaction_id: Some(odd), ..trade(1999, "CNY") };
            assert!(matches!(verdict(&odd), Verdict::Person { reason: ParkReason::PaymentMismatch, .. }));
        }
        // However little it tells, money has come in.
        let nameless = Trade { transaction_id: None, said: b"signed".to_vec(), ..trade(1999, "CNY") };
        let priceless = Trade { amount: None, ..nameless.clone() };
        for told in [nameless, priceless, Trade { said: b"signed".to_vec(), ..Trade::in_state(TradeState::Refunded) }] {
            let Verdict::Person { money: Some(money), .. } = verdict(&told) else { panic!("{told:?}") };
            assert_eq!((money.said.as_slice(), &money.amount), (b"signed".as_slice(), &told.amount));
        }
    }

    #[test]
    fn a_missing_trade_is_believed_by_what_the_shop_knows() {
        let missing = Trade::in_state(TradeState::NotFound);
        let verdict = |payment: &PaymentFacts| concluded(query(payment, &missing, false));
        let rules = CloseRules::default();
        let payable_until = payment(Prepay::None).created_at + rules.payable_for;
        let absent = Verdict::Absent { payable_until };
        assert_eq!(verdict(&payment(Prepay::None)), absent);
        let gap = rules.not_found_gap;
        assert_eq!(verdict(&payment(Prepay::Attempted)), Verdict::NotFoundYet(now() + gap));
        let since = |prepay, age| PaymentFacts { not_found_at: Some(now() - age), ..payment(prepay) };
        let second = Duration::from_secs(1);
        assert_eq!(verdict(&since(Prepay::Attempted, gap - second)), Verdict::NotFoundYet(now() + second));
        assert_eq!(verdict(&since(Prepay::Attempted, gap)), absent);
        // The shop may know for how long it can be paid.
        let known = PaymentFacts { payable_until: Some(now()), ..payment(Prepay::None) };
        assert_eq!(verdict(&known), Verdict::Absent { payable_until: now() });
        // What the gateway had confirmed is not denied by one answer that is not signed.
        assert_eq!(verdict(&payment(Prepay::Created)), Verdict::NotFoundYet(now() + gap));
        assert_eq!(verdict(&since(Prepay::Created, rules.denied_for - second)), Verdict::NotFoundYet(now() + gap));
        let denied = verdict(&since(Prepay::Created, rules.denied_for));
        assert!(matches!(denied, Verdict::Person { reason: ParkReason::TradeMissing, .. }), "{denied:?}");
    }

    #[test]
    fn where_trades_cannot_be_closed_their_time_must_be_over() {
        let answer = GatewayAnswer::Close(CloseOutcome::Unsupported);
        let at = |seconds: i64| Some(now() + time::Duration::seconds(seconds));
        let step = |payable_until| {
            let payment = PaymentFacts { payable_until, ..payment(Prepay::Created) };
            concluded(next_step(&payment, &CloseRules::default(), &answer, now()))
        };
        let later = Verdict::Later { at: now() + Duration::from_secs(60), why: RetryReason::NotClosable };
        assert_eq!((step(at(60)), step(at(0))), (later, Verdict::Unpaid));
    }

    #[test]
    fn a_trade_that_is_too_young_is_closed_later() {
        let rules = CloseRules { min_close_age: Duration::from_mins(40), ..CloseRules::default() };
        let payment = payment(Prepay::Created);
        let trade = Trade::in_state(TradeState::NotPaid);
        let step = next_step(&payment, &rules, &GatewayAnswer::Trade { trade: &trade, after_close: false }, now());
        let at = payment.created_at + rules.min_close_age;
        assert_eq!(step, Step::Conclude(Verdict::Later { at, why: RetryReason::TooEarly }));
    }
}
