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
mod tests;
