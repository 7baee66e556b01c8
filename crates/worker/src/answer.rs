use std::collections::HashMap;

use book::{MoneyAside, Payment, TradeFinding, TradeNote};
use order::{Deadline, Heard, OrderFacts, OrderId, OrderStatus, PaymentFacts, PaymentState, Receipt, Verdict};
use payment::{further_refund_no, refund_no};
use time::OffsetDateTime;

/// What a gateway is asked: how a trade of an order stands, as the order was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: OrderId,
    pub(crate) deadline: Deadline,
    pub(crate) payment: PaymentFacts,
    pub(crate) asked_at: OffsetDateTime,
}

/// The result of an attempt at a trade of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) question: Question,
    pub(crate) verdict: Verdict,
    /// Whether the gateway has said that the trade exists.
    pub(crate) exists: bool,
}

/// The answers of a batch, by order: one for each of its trades.
#[derive(Debug, Default)]
pub(crate) struct GatewayAnswers {
    of: HashMap<OrderId, Vec<Answer>>,
}

impl GatewayAnswers {
    /// The answers about an order.
    pub(crate) fn about(&self, id: &OrderId) -> &[Answer] {
        self.of.get(id).map_or(&[], Vec::as_slice)
    }

    /// Adds an answer, in the place of an earlier one about the same trade.
    pub(crate) fn add(&mut self, answer: Answer) {
        let answers = self.of.entry(answer.question.id.clone()).or_default();
        answers.retain(|known| !known.question.payment.is_of_trade(&answer.question.payment));
        answers.push(answer);
    }

    /// Forgets what was heard of a payment that is on record now. Says whether there is more about the order.
    pub(crate) fn is_recorded(&mut self, payment: &Payment) -> bool {
        let Some(answers) = self.of.get_mut(&payment.id) else { return false };
        answers.retain(|answer| {
            let asked = &answer.question.payment;
            (&asked.gateway, &asked.trade_no) != (&payment.gateway, &payment.trade_no)
        });
        answers.iter().any(|answer| matches!(answer.verdict, Verdict::Paid(_)))
    }
}

impl Answer {
    /// Whether the answer still says something about the order as it stands now. An answer about one trade says nothing
    /// about another, an answer from before an extension says nothing about the time after it, and none says anything about a
    /// payment that is on record by now: it may be on its way back already. Money that has come in always counts.
    pub(crate) fn holds_for(&self, order: Option<&OrderFacts>) -> bool {
        let Question { deadline, payment: asked, .. } = &self.question;
        let holds = |order: &OrderFacts| {
            let pending = order.status == OrderStatus::Pending;
            let in_time = !pending || order.deadline == *deadline;
            let is_open = |now: &PaymentFacts| pending || now.state != PaymentState::Paid;
            let same = |now: &PaymentFacts| now.is_of_trade(asked) && now.prepay == asked.prepay && is_open(now);
            in_time && order.payments.iter().any(same)
        };
        matches!(self.verdict, Verdict::Paid(_)) || order.is_none_or(holds)
    }

    /// For the decision.
    pub(crate) fn heard(&self) -> Heard<'_> {
        Heard { payment: &self.question.payment, verdict: &self.verdict }
    }

    /// What is to be recorded of an answer that does not end the matter.
    pub(crate) fn note(&self) -> Option<TradeNote> {
        match self.verdict {
            Verdict::NotFoundYet(_) => Some(self.finding(TradeFinding::NotFound)),
            Verdict::Unpaid => Some(self.finding(TradeFinding::Gone)),
            _ => self.exists.then(|| self.finding(TradeFinding::Exists)),
        }
    }

    /// This finding about the trade, to be recorded.
    pub(crate) fn finding(&self, finding: TradeFinding) -> TradeNote {
        let Question { id, payment, .. } = &self.question;
        TradeNote { id: id.clone(), gateway: payment.gateway.clone(), trade_no: payment.trade_no.clone(), finding }
    }

    /// Money that the gateway has told of and that cannot be credited.
    pub(crate) fn money_aside(&self) -> Option<MoneyAside> {
        let Verdict::Person { detail, money: Some(money), .. } = &self.verdict else { return None };
        let Question { id, payment, .. } = &self.question;
        Some(MoneyAside {
            id: Some(id.clone()),
            gateway: payment.gateway.clone(),
            trade_no: payment.trade_no.clone(),
            money: (**money).clone(),
            problem: detail.clone(),
        })
    }
}

/// The payment of an order for which this receipt stands.
pub(crate) fn payment(id: &OrderId, gateway: &str, trade_no: &str, receipt: Receipt) -> Payment {
    Payment {
        id: id.clone(),
        gateway: gateway.to_owned(),
        trade_no: trade_no.to_owned(),
        refund_no: refund_no(id),
        further_refund_no: further_refund_no(id, gateway, &receipt.transaction_id),
        receipt,
    }
}
