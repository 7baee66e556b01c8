//! The world of the model: the order, its trades at gateways, and what the book keeps of them.

use std::time::Duration;

use order::{
    CloseOutcome, Deadline, Money, OrderFacts, OrderStatus, PaymentFacts, PaymentState, Prepay, Trade, TradeState,
};
use time::OffsetDateTime;

use crate::protocol::{Answer, Mistake, Worker};

/// What there is in the world. Small numbers are what is left of things that may happen so often.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) status: OrderStatus,
    pub(crate) paid_by: PaidBy,
    /// How often the stock was released.
    pub(crate) released: u8,
    /// Attempts to pay the order, at one gateway each.
    pub(crate) attempts: [Attempt; 2],
    /// Messages in the queues.
    pub(crate) messages: u8,
    /// The message by which a missing trade is looked for once more; it comes when nothing else does.
    pub(crate) look_again: bool,
    /// Whether the time has come for that.
    pub(crate) late: bool,
    /// Whether no trade can appear any more.
    pub(crate) expired: bool,
    /// Whether a person was called because of money that had been given back.
    pub(crate) own_money_claimed: bool,
    pub(crate) workers: [Worker; 2],
    pub(crate) left: Left,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) duplicates: u8,
    /// Rounds of the sweep before anything else is over. Once all is quiet it always comes.
    pub(crate) sweeps: u8,
    pub(crate) crashes: u8,
    pub(crate) lost_answers: u8,
    pub(crate) lost_messages: u8,
    /// The first trade shows at its gateway.
    pub(crate) appearances: u8,
    /// The shop cancels the order, or has it paid by other means.
    pub(crate) ends: u8,
    /// The shop begins the second attempt, beside the first or in its place.
    pub(crate) begins: u8,
}

/// An attempt to pay the order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) gateway: Gateway,
    /// The row in `payments`.
    pub(crate) row: Option<Row>,
    /// Whether a notification is on its way. It may never come.
    pub(crate) notification: bool,
    pub(crate) refund: Refund,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) prepay: Prepay,
    pub(crate) missed: bool,
    pub(crate) state: PaymentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Gateway {
    Absent,
    NotPaid,
    Paid,
    Closed,
    Refunded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PaidBy {
    Nothing,
    Attempt(usize),
    /// In cash, say.
    Otherwise,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refund {
    None,
    Recorded,
    Arrived,
    ForAPerson,
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

pub(crate) fn price() -> Money {
    Money { minor: 1999, currency: "CNY".to_owned() }
}

impl Attempt {
    pub(crate) fn none() -> Self {
        Self { gateway: Gateway::Absent, row: None, notification: false, refund: Refund::None }
    }

    pub(crate) fn begun(gateway: Gateway, prepay: Prepay) -> Self {
        Self { gateway, row: Some(Row { prepay, missed: false, state: PaymentState::Open }), ..Self::none() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.state == PaymentState::Open)
    }
}

impl World {
    /// `load.sql`. An order without a row is paid at the first gateway, which is the default.
    pub(crate) fn facts(&self) -> OrderFacts {
        let payment = |(number, attempt): (usize, &Attempt)| {
            attempt.row.as_ref().map(|row| PaymentFacts {
                gateway: number.to_string(),
                // The same at both: the gateway tells them apart.
                trade_no: "1".to_owned(),
                amount: price(),
                prepay: row.prepay,
                created_at: now() - Duration::from_secs(7200),
                // Who looks again looks after the gap.
                not_found_at: row.missed.then(|| now() - Duration::from_secs(3600)),
                payable_until: Some(if self.expired {
                    now() - Duration::from_secs(1)
                } else {
                    now() + Duration::from_secs(3600)
                }),
                state: row.state,
            })
        };
        let mut payments: Vec<PaymentFacts> = self.attempts.iter().enumerate().filter_map(payment).collect();
        if payments.is_empty() {
            let first = Attempt::begun(Gateway::Absent, Prepay::Attempted);
            payments.extend(payment((0, &first)));
        }
        let deadline = Deadline::at(now() - Duration::from_secs(60));
        OrderFacts { status: self.status, deadline, payments }
    }

    pub(crate) fn trade(&self, attempt: usize) -> Trade {
        let state = match self.attempts[attempt].gateway {
            Gateway::Absent => TradeState::NotFound,
            Gateway::NotPaid => TradeState::NotPaid,
            Gateway::Paid => TradeState::Paid,
            Gateway::Closed => TradeState::Closed,
            Gateway::Refunded => TradeState::Refunded,
        };
        let paid = state == TradeState::Paid;
        let transaction_id = paid.then(|| format!("4200-{attempt}"));
        Trade { transaction_id, amount: paid.then(price), ..Trade::in_state(state) }
    }

    pub(crate) fn close_at_gateway(&mut self, attempt: usize) -> CloseOutcome {
        let gateway = &mut self.attempts[attempt].gateway;
        match gateway {
            Gateway::Absent => CloseOutcome::NotFound,
            Gateway::NotPaid => {
                *gateway = Gateway::Closed;
                CloseOutcome::Accepted
            }
            Gateway::Closed => CloseOutcome::AlreadyClosed,
            Gateway::Paid | Gateway::Refunded => CloseOutcome::AlreadyPaid,
        }
    }

    /// `settle.sql`: what is pending closes, and its stock comes back, unless there is more to its payments by now than
    /// was asked about.
    pub(crate) fn close_here(&mut self, answers: &[Answer], mistake: Mistake) -> bool {
        let heard = |number: usize, row: &Row| {
            row.state == PaymentState::Closed
                || answers.iter().any(|answer| {
                    let same = answer.question.attempt == number || mistake == Mistake::GatewayNotCompared;
                    same && answer.question.prepay == row.prepay
                })
        };
        let mut rows =
            self.attempts.iter().enumerate().filter_map(|(number, attempt)| Some((number, attempt.row.as_ref()?)));
        let stands = match mistake {
            Mistake::LocalFirst | Mistake::NoGatewayHere => true,
            _ if self.attempts.iter().all(|attempt| attempt.row.is_none()) => {
                answers.iter().any(|answer| answer.question.attempt == 0)
            }
            _ => rows.all(|(number, row)| heard(number, row)),
        };
        let won = self.status == OrderStatus::Pending && stands;
        if won {
            self.status = OrderStatus::Closed;
            self.released += 1;
        }
        won
    }

    /// `pay.sql`: what is pending is paid; what has ended before is to be refunded, once. Where no gateway vouches for the payment
    /// of an order that is paid, a person decides.
    pub(crate) fn pay_here(&mut self, number: usize, mistake: Mistake) {
        let attempt = &mut self.attempts[number];
        let becomes = |refund: &mut Refund, next: Refund| {
            if *refund == Refund::None {
                *refund = next;
            }
        };
        match (self.status, self.paid_by) {
            (OrderStatus::Pending, _) => {
                self.status = OrderStatus::Paid;
                self.paid_by = PaidBy::Attempt(number);
            }
            (OrderStatus::Closed | OrderStatus::Cancelled, _) => becomes(&mut attempt.refund, Refund::Recorded),
            (OrderStatus::Paid, PaidBy::Attempt(other)) if other != number => {
                becomes(&mut attempt.refund, Refund::Recorded);
            }
            (OrderStatus::Paid, PaidBy::Otherwise) => becomes(&mut attempt.refund, Refund::ForAPerson),
            (OrderStatus::Paid, _) => {}
        }
        let prepay = attempt.row.as_ref().map_or(Prepay::Attempted, |row| row.prepay);
        let was_pending = self.paid_by == PaidBy::Attempt(number)
            && attempt.row.as_ref().is_none_or(|row| row.state == PaymentState::Open);
        attempt.row = Some(Row { prepay, missed: false, state: PaymentState::Paid });
        if was_pending {
            self.ended(mistake);
        }
    }

    /// The trigger `order_ended`: the open trades of an order that was paid or cancelled are closed at once.
    pub(crate) fn ended(&mut self, mistake: Mistake) {
        if mistake.asks_about_ended_orders() && self.attempts.iter().any(Attempt::is_open) {
            self.messages += 1;
        }
    }

    /// `note.sql`: what is known to be paid stays so.
    pub(crate) fn note(&mut self, attempt: usize, change: impl FnOnce(&mut Row)) {
        let row = self.attempts[attempt].row.get_or_insert(Row {
            prepay: Prepay::None,
            missed: false,
            state: PaymentState::Open,
        });
        if row.state != PaymentState::Paid {
            change(row);
        }
    }

    /// Whether the sweep finds it: pending past its deadline, or ended with a payment that could still be made.
    pub(crate) fn is_swept(&self, mistake: Mistake) -> bool {
        let ended = mistake.asks_about_ended_orders() && self.attempts.iter().any(Attempt::is_open);
        self.status == OrderStatus::Pending || ended
    }

    /// Nobody is at work and nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.messages == 0
            && !self.look_again
            && self.attempts.iter().all(|attempt| attempt.refund != Refund::Recorded)
            && self.workers.iter().all(Worker::is_idle)
    }

    /// Money that was taken belongs to a paid order, is back, or is with a person; and nothing can be paid any more.
    pub(crate) fn agrees(&self) -> bool {
        let agrees = |(number, attempt): (usize, &Attempt)| match attempt.gateway {
            Gateway::Paid => {
                attempt.refund == Refund::ForAPerson
                    || (self.status == OrderStatus::Paid && self.paid_by == PaidBy::Attempt(number))
            }
            Gateway::Refunded => attempt.refund == Refund::Arrived,
            Gateway::NotPaid => false,
            // One that shows later is found by a later look, so this is not the end.
            Gateway::Absent => number == 1 || self.left.appearances == 0,
            Gateway::Closed => true,
        };
        self.attempts.iter().enumerate().all(agrees)
    }
}
