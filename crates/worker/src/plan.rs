//! What is to be done with orders, once they are loaded. Nothing here waits for anything: the same orders, answers and time
//! give the same plan.

use std::time::Duration;

use book::{Closing, ItemReply, Loaded, MoneyAside, Payment, TradeFinding, TradeNote};
use order::{
    Attempts, Deadline, Decision, Heard, OrderFacts, OrderId, ParkReason, Retry, RetryReason, Verdict, decide,
};
use retry::Policy;
use time::OffsetDateTime;

use crate::answer::{Answer, GatewayAnswers, Question, payment};
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
    /// What follows for the trades of one of them, once it is closed.
    pub(crate) once_closed: Vec<OnceClosed>,
    /// Payments to record.
    pub(crate) pay: Vec<Payment>,
    /// What gateways have said, to be recorded.
    pub(crate) note: Vec<TradeNote>,
    /// Money that cannot be credited, to be recorded.
    pub(crate) aside: Vec<MoneyAside>,
    /// Gateways to ask, order by order.
    pub(crate) ask: Vec<(OrderId, Vec<Question>)>,
    /// Orders that need nothing more in this batch.
    pub(crate) ended: Vec<(OrderId, Outcome)>,
    /// Gateways to ask again later.
    pub(crate) rechecks: Vec<Recheck>,
    /// Orders about which the book has said nothing: to be loaded again.
    pub(crate) reload: Vec<OrderId>,
}

/// What follows for the trades of an order, once the order is closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OnceClosed {
    pub(crate) id: OrderId,
    pub(crate) notes: Vec<TradeNote>,
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
    /// How long after its deadline an order may wait for what costs no attempt.
    pub(crate) later_max: Duration,
    /// How long a trade may still appear, where the shop does not say.
    pub(crate) payable_for: Duration,
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
            later_max: gateways.later_max,
            payable_for: gateways.rules.payable_for,
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
                ItemReply::Locked(why) => {
                    plan.end(open.id, Outcome::look_again_when_free(open.attempts, why.clone(), now))
                }
                ItemReply::Later(wait) => {
                    let when = When::at(now + *wait);
                    plan.end(open.id, Outcome::LookAgain { attempts: open.attempts.clone(), when });
                }
                ItemReply::Changed => plan.reload.push(open.id.clone()),
            }
        }
        plan
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
        let answers: Vec<&Answer> = answers.about(id).iter().filter(|answer| answer.holds_for(facts)).collect();
        let heard: Vec<Heard<'_>> = answers.iter().map(|answer| answer.heard()).collect();
        plan.aside.extend(answers.iter().filter_map(|answer| answer.money_aside()));
        let notes = answers.iter().filter_map(|answer| answer.note());
        match (decide(facts, &heard, now), facts) {
            (Decision::Close(deadline), _) => {
                let (once_closed, recheck) = self.once_closed(id, deadline, &answers, now);
                plan.once_closed.extend(once_closed);
                plan.close.push(Closing {
                    id: id.clone(),
                    deadline,
                    revision: loaded.and_then(|loaded| loaded.revision.clone()),
                    payments: answers.iter().map(|answer| answer.question.payment.clone()).collect(),
                    recheck,
                });
            }
            (Decision::Pay(paid, receipt), Some(_)) => {
                plan.pay.push(payment(id, &paid.gateway, &paid.trade_no, receipt.clone()));
            }
            (Decision::Ask(payments), Some(facts)) if self.mode.asks() => {
                let (id, deadline) = (id.clone(), facts.deadline);
                let questions = payments.into_iter().cloned();
                let questions =
                    questions.map(|payment| Question { id: id.clone(), deadline, payment, asked_at: now }).collect();
                plan.ask.push((id, questions));
            }
            (Decision::Ask(_), Some(facts)) => plan.end(id, Outcome::HandedOver(facts.deadline)),
            (Decision::Retry(retry), Some(facts)) => {
                plan.note.extend(notes);
                self.retry(open, facts.deadline, retry, now, plan);
            }
            (Decision::Hold(why), Some(facts)) => {
                plan.note.extend(notes);
                let (when, attempts) = (When::at(now + self.hold), open.attempts.clone());
                plan.rechecks.push(Recheck { id: id.clone(), deadline: facts.deadline, attempts, when });
                plan.end(id, Outcome::Held(why.to_owned()));
            }
            (Decision::Nothing(_), Some(facts)) => {
                self.after_end(&answers, facts, now, plan);
                plan.end(id, Outcome::Unchanged);
            }
            (Decision::Wait(deadline), _) => plan.end(id, Outcome::Waiting(deadline)),
            (Decision::Park { reason, detail }, _) => {
                plan.note.extend(notes);
                plan.end(id, parked(reason, detail));
            }
            (_, None) | (Decision::Unknown, _) => plan.end(id, self.unknown(open, &heard, now)),
        }
    }

    /// A trade that its gateway did not know may have been on its way: it is looked for once more, by a message or by the
    /// book, which is told after how long.
    fn once_closed(
        &self,
        id: &OrderId,
        deadline: Deadline,
        answers: &[&Answer],
        now: OffsetDateTime,
    ) -> (Option<OnceClosed>, Option<Duration>) {
        if answers.is_empty() {
            return (None, None);
        }
        let is_absent = |answer: &Answer| matches!(answer.verdict, Verdict::Absent { .. });
        let note = |answer: &&Answer| {
            answer.finding(if is_absent(answer) { TradeFinding::Missed } else { TradeFinding::Gone })
        };
        let notes = answers.iter().map(note).collect();
        let again = answers.iter().any(|answer| is_absent(answer));
        let by_message = (again && !self.mode.arms()).then(|| recheck(id, deadline, now + self.look_again_after));
        let by_book = (again && self.mode.arms()).then_some(self.look_again_after);
        (Some(OnceClosed { id: id.clone(), notes, recheck: by_message }), by_book)
    }

    /// The trades of an order that has ended. One that is gone is done with. One that is missing is looked for once more by a
    /// message, and then by the sweep, until it can no longer appear.
    fn after_end(&self, answers: &[&Answer], facts: &OrderFacts, now: OffsetDateTime, plan: &mut Plan) {
        let mut again_at: Option<OffsetDateTime> = None;
        for answer in answers {
            let Question { payment: asked, asked_at, .. } = &answer.question;
            let payable_until = match &answer.verdict {
                Verdict::Absent { payable_until } => *payable_until,
                Verdict::Person { money: None, .. } => {
                    asked.payable_until.unwrap_or(asked.created_at + self.payable_for)
                }
                // Nobody can pay it any more, or somebody has, and a person looks at that.
                _ => {
                    plan.note.push(answer.finding(TradeFinding::Gone));
                    continue;
                }
            };
            let known = facts.payments.iter().find(|payment| payment.is_of_trade(asked));
            let first_missed_at = known.and_then(|payment| payment.not_found_at).unwrap_or(now);
            let at = first_missed_at + self.look_again_after;
            // The time of the question counts, not the time of the answer: the trade may have appeared in between.
            let looked_again = at <= *asked_at;
            if looked_again && payable_until <= *asked_at {
                // A trade that was seen since is not taken for absent; one that the gateway denies for ever is gone.
                let denied = matches!(answer.verdict, Verdict::Person { .. });
                plan.note.push(answer.finding(if denied { TradeFinding::Gone } else { TradeFinding::Absent }));
                continue;
            }
            plan.note.push(answer.finding(TradeFinding::NotFound));
            if !looked_again {
                again_at = again_at.max(Some(at));
            }
        }
        if let (Some(at), Some(answer)) = (again_at, answers.first()) {
            let Question { id, deadline, .. } = &answer.question;
            plan.rechecks.push(recheck(id, *deadline, at));
        }
    }

    fn retry(&self, open: &Open<'_>, deadline: Deadline, retry: Retry, now: OffsetDateTime, plan: &mut Plan) {
        let Retry { at, counts, why } = retry;
        // What only has to be waited for costs no attempt, within a bound.
        let waited = now - deadline.instant();
        let counts = counts || waited > self.later_max;
        let attempts = if counts { open.attempts.clone().plus(now, &why) } else { open.attempts.clone() };
        if attempts.made >= self.attempts_max {
            let detail =
                format!("{} attempts to learn how its payment stands settled nothing; the last: {why}", attempts.made);
            plan.end(open.id, parked(ParkReason::PaymentUnknown, detail));
            return;
        }
        let when = match at {
            // The longer a customer is about to pay, the less often that is asked about.
            Some(at) if !counts && matches!(why, RetryReason::UserPaying | RetryReason::Authorized) => {
                let pause = Duration::try_from(waited / 10).unwrap_or_default().min(self.back_off.max);
                When::at(at.max(now + pause))
            }
            Some(at) if !counts => When::at(at),
            // A time that is known is kept, but the back-off holds for an order that has been tried often.
            at => When { not_before: at.unwrap_or(now), back_off: self.back_off.nominal(attempts.made) },
        };
        plan.rechecks.push(Recheck { id: open.id.clone(), deadline, attempts, when });
        plan.end(open.id, Outcome::Retried(why));
    }

    /// The message may have been faster than the commit of its order.
    fn unknown(&self, open: &Open<'_>, heard: &[Heard<'_>], now: OffsetDateTime) -> Outcome {
        if let Some(paid_as) = heard.iter().find_map(|heard| match heard.verdict {
            Verdict::Paid(receipt) => Some(&receipt.transaction_id),
            _ => None,
        }) {
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

/// The trades of this order are to be looked for again at this time.
fn recheck(id: &OrderId, deadline: Deadline, at: OffsetDateTime) -> Recheck {
    Recheck { id: id.clone(), deadline, attempts: Attempts::default(), when: When::at(at) }
}

impl Plan {
    fn end(&mut self, id: &OrderId, outcome: Outcome) {
        self.ended.push((id.clone(), outcome));
    }
}

fn parked(reason: ParkReason, detail: String) -> Outcome {
    Outcome::Parked { reason, detail }
}

#[cfg(test)]
mod tests;
