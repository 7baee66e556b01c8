//! What is to be done with orders, once they are loaded. Nothing here waits for anything: the same orders, answers and time
//! give the same plan.

use std::time::Duration;

use book::{Closing, ItemReply, Loaded, Payment, TradeFinding, TradeNote};
use order::{Attempts, Deadline, Decision, OrderFacts, OrderId, ParkReason, Retry, RetryReason, Verdict, decide};
use retry::Policy;
use time::OffsetDateTime;

use crate::answer::{Answer, GatewayAnswers, Question};
use crate::gateway_settings::GatewaySettings;
use crate::outcome::{Outcome, Recheck, When};

/// An order that is not settled yet.
pub(crate) struct Open<'a> {
    pub(crate) id: &'a OrderId,
    /// The book's reply to the load.
    pub(crate) reply: &'a ItemReply<Loaded>,
    /// The attempts so far.
    pub(crate) attempts: &'a Attempts,
}

/// What is to be done with each of some orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Orders to close.
    pub(crate) close: Vec<Closing>,
    /// What follows for the trade of one of them, once it is closed.
    pub(crate) once_closed: Vec<OnceClosed>,
    /// Payments to record.
    pub(crate) pay: Vec<Payment>,
    /// What gateways have said, to be recorded.
    pub(crate) note: Vec<TradeNote>,
    /// Gateways to ask.
    pub(crate) ask: Vec<Question>,
    /// Orders that need nothing more in this batch.
    pub(crate) ended: Vec<(OrderId, Outcome)>,
    /// Gateways to ask again later.
    pub(crate) rechecks: Vec<Recheck>,
    /// Orders about which the book has said nothing: to be loaded again.
    pub(crate) reload: Vec<OrderId>,
}

/// What follows for the trade of an order, once the order is closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OnceClosed {
    /// Names the order.
    pub(crate) note: TradeNote,
    pub(crate) recheck: Option<Recheck>,
}

/// The rules by which plans are made.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) mode: Mode,
    pub(crate) unknown: UnknownOrders,
    pub(crate) attempts_max: u32,
    pub(crate) back_off: Policy,
    pub(crate) hold: Duration,
    pub(crate) look_again_after: Duration,
}

/// What differs between those who settle orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Messages of orders that are due: an order whose gateway must be asked is handed over.
    Payment,
    /// Messages of orders whose gateways must be asked.
    Gateway,
    /// The sweep. It publishes nothing: the book arms a second look along with the close.
    Sweep,
    /// The sweep, for orders whose gateways must be asked.
    SweepGateway,
    /// A person or a client looks at an order.
    Passive,
}

/// How often, and at which times, an order is looked up that the book does not know: its message may have been faster than
/// the commit of its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOrders {
    /// After so many attempts the order is parked.
    pub attempts_max: u32,
    /// The delays between them.
    pub back_off: Policy,
}

impl Default for UnknownOrders {
    fn default() -> Self {
        let back_off = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };
        Self { attempts_max: 5, back_off }
    }
}

/// Between looks at an order that another transaction has locked.
const LOCKED: Policy = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

/// After so many looks, a quarter of an hour, an order that stays locked is for a person.
const LOCKED_ATTEMPTS_MAX: u32 = 32;

impl Mode {
    pub(crate) fn asks(self) -> bool {
        matches!(self, Self::Gateway | Self::SweepGateway | Self::Passive)
    }

    fn arms(self) -> bool {
        matches!(self, Self::Sweep | Self::SweepGateway | Self::Passive)
    }
}

impl Rules {
    pub(crate) fn new(mode: Mode, gateways: &GatewaySettings, unknown: UnknownOrders) -> Self {
        Self {
            mode,
            unknown,
            attempts_max: gateways.attempts_max,
            back_off: gateways.back_off,
            hold: gateways.hold,
            look_again_after: gateways.look_again_after,
        }
    }

    /// What is to be done with these orders, given what gateways have said and the book's time.
    pub(crate) fn plan(&self, orders: &[Open<'_>], answers: &GatewayAnswers, now: OffsetDateTime) -> Plan {
        let mut plan = Plan::default();
        for open in orders {
            match open.reply {
                ItemReply::Done(loaded) => self.plan_order(open, Some(loaded), answers, now, &mut plan),
                ItemReply::Unknown => self.plan_order(open, None, answers, now, &mut plan),
                ItemReply::Refused(detail) => {
                    plan.end(open.id, parked(ParkReason::UnreadableOrder, detail.clone()));
                }
                ItemReply::Locked(why) => plan.end(open.id, look_again_when_free(open.attempts, why.clone(), now)),
                ItemReply::Later(wait) => {
                    let when = When::at(now + *wait);
                    plan.end(open.id, Outcome::LookAgain { attempts: open.attempts.clone(), when });
                }
                ItemReply::Changed => plan.reload.push(open.id.clone()),
            }
        }
        plan
    }

    /// The gateway of an order cannot be asked now, about any order: the order is asked about later, with no attempt spent.
    pub(crate) fn hold(&self, question: Question, attempts: &Attempts, why: String, now: OffsetDateTime) -> Plan {
        let when = When::at(now + self.hold);
        let Question { id, deadline, .. } = question;
        let recheck = Recheck { id: id.clone(), deadline, attempts: attempts.clone(), when };
        Plan { ended: vec![(id, Outcome::Held(why))], rechecks: vec![recheck], ..Plan::default() }
    }

    fn plan_order(
        &self,
        open: &Open<'_>,
        loaded: Option<&Loaded>,
        answers: &GatewayAnswers,
        now: OffsetDateTime,
        plan: &mut Plan,
    ) {
        let id = open.id;
        let facts = loaded.map(|loaded| &loaded.facts);
        let answer = answers.get(id).filter(|answer| answer.holds_for(facts));
        match (decide(facts, answer.map(|answer| &answer.verdict), now), facts) {
            (Decision::Close(deadline), _) => {
                let once_closed = answer.map(|answer| self.once_closed(answer, now));
                let recheck = answer.is_some_and(|answer| answer.verdict == Verdict::Absent && self.mode.arms());
                plan.once_closed.extend(once_closed);
                plan.close.push(Closing {
                    id: id.clone(),
                    deadline,
                    revision: loaded.and_then(|loaded| loaded.revision.clone()),
                    payment: answer.map(|answer| answer.question.payment.clone()),
                    recheck: recheck.then_some(self.look_again_after),
                });
            }
            (Decision::Pay(receipt), _) => plan.pay.extend(answer.map(|answer| answer.payment(receipt))),
            (Decision::Ask, Some(OrderFacts { deadline, payment: Some(payment), .. })) if self.mode.asks() => {
                let (id, payment) = (id.clone(), payment.clone());
                plan.ask.push(Question { id, deadline: *deadline, payment, asked_at: now });
            }
            (Decision::Ask, Some(facts)) => plan.end(id, Outcome::HandedOver(facts.deadline)),
            (Decision::Retry(retry), Some(facts)) => {
                plan.note.extend(answer.and_then(Answer::note));
                self.retry(open, facts.deadline, retry, now, plan);
            }
            (Decision::Nothing(_), Some(facts)) => {
                if let Some(answer) = answer {
                    self.after_close(answer, facts, now, plan);
                }
                plan.end(id, Outcome::Unchanged);
            }
            (Decision::Wait(deadline), _) => {
                plan.note.extend(answer.and_then(Answer::note));
                plan.end(id, Outcome::Waiting(deadline));
            }
            (Decision::Park { reason, detail }, _) => {
                plan.note.extend(answer.and_then(Answer::note));
                plan.end(id, parked(reason, detail));
            }
            (Decision::Unknown | Decision::Ask | Decision::Retry(_) | Decision::Nothing(_), _) => {
                plan.end(id, self.unknown(open, answer, now));
            }
        }
    }

    /// A trade that its gateway did not know may have been on its way: it is looked for once more, by a message or by the
    /// book.
    fn once_closed(&self, answer: &Answer, now: OffsetDateTime) -> OnceClosed {
        if answer.verdict != Verdict::Absent {
            return OnceClosed { note: answer.finding(TradeFinding::Gone), recheck: None };
        }
        let recheck = self.recheck_after_close(answer, now + self.look_again_after);
        OnceClosed { note: answer.finding(TradeFinding::Missed), recheck: (!self.mode.arms()).then_some(recheck) }
    }

    /// The trade of an order that was closed or cancelled before. Whether a trade that is missing is looked for once more
    /// depends on when it was first missed.
    fn after_close(&self, answer: &Answer, facts: &OrderFacts, now: OffsetDateTime, plan: &mut Plan) {
        let Some(payment) = &facts.payment else { return };
        if answer.verdict != Verdict::Absent {
            plan.note.push(answer.finding(TradeFinding::Gone));
            return;
        }
        let at = payment.not_found_at.unwrap_or(now) + self.look_again_after;
        // The time of the question counts, not the time of the answer: the trade may have appeared in between.
        if at <= answer.question.asked_at {
            plan.note.push(answer.finding(TradeFinding::Absent));
            return;
        }
        plan.note.push(answer.finding(TradeFinding::NotFound));
        plan.rechecks.push(self.recheck_after_close(answer, at));
    }

    fn recheck_after_close(&self, answer: &Answer, at: OffsetDateTime) -> Recheck {
        let Question { id, deadline, .. } = &answer.question;
        Recheck { id: id.clone(), deadline: *deadline, attempts: Attempts::default(), when: When::at(at) }
    }

    fn retry(&self, open: &Open<'_>, deadline: Deadline, retry: Retry, now: OffsetDateTime, plan: &mut Plan) {
        let Retry { at, counts, why } = retry;
        let attempts = if counts { open.attempts.clone().plus(now, &why) } else { open.attempts.clone() };
        if attempts.made >= self.attempts_max {
            let detail =
                format!("{} attempts to learn how its payment stands settled nothing; the last: {why}", attempts.made);
            plan.end(open.id, parked(ParkReason::PaymentUnknown, detail));
            return;
        }
        // A time that is known is kept, but the back-off holds for an order that has been tried often.
        let when = match at {
            Some(at) if !counts => When::at(at),
            at => When { not_before: at.unwrap_or(now), back_off: self.back_off.nominal(attempts.made) },
        };
        plan.rechecks.push(Recheck { id: open.id.clone(), deadline, attempts, when });
        plan.end(open.id, Outcome::Retried(why));
    }

    /// The message may have been faster than the commit of its order.
    fn unknown(&self, open: &Open<'_>, answer: Option<&Answer>, now: OffsetDateTime) -> Outcome {
        if let Some(Verdict::Paid(receipt)) = answer.map(|answer| &answer.verdict) {
            let paid_as = &receipt.transaction_id;
            let detail = format!("the database has no order {} any more; it was paid as {paid_as}", open.id);
            return parked(ParkReason::UnknownOrder, detail);
        }
        let attempts = open.attempts.clone().plus(now, &RetryReason::UnknownOrder);
        if attempts.made >= self.unknown.attempts_max {
            return parked(ParkReason::UnknownOrder, "the database has no such order".to_owned());
        }
        let when = When::backed_off(now, self.unknown.back_off.nominal(attempts.made));
        Outcome::LookAgain { attempts, when }
    }
}

impl Plan {
    fn end(&mut self, id: &OrderId, outcome: Outcome) {
        self.ended.push((id.clone(), outcome));
    }
}

/// Another transaction has the order locked, perhaps for long, or it takes long.
pub(crate) fn look_again_when_free(attempts: &Attempts, why: String, now: OffsetDateTime) -> Outcome {
    let attempts = attempts.clone().plus(now, &RetryReason::Locked);
    if attempts.made >= LOCKED_ATTEMPTS_MAX {
        return parked(ParkReason::StaysLocked, format!("{} attempts; the last: {why}", attempts.made));
    }
    let when = When::backed_off(now, LOCKED.nominal(attempts.made));
    Outcome::LookAgain { attempts, when }
}

fn parked(reason: ParkReason, detail: String) -> Outcome {
    Outcome::Parked { reason, detail }
}

#[cfg(test)]
mod tests;
