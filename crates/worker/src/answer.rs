use std::collections::HashMap;

use book::{Payment, TradeFinding, TradeNote};
use order::{Deadline, OrderFacts, OrderId, PaymentFacts, Receipt, Verdict};
use payment::refund_no;
use time::OffsetDateTime;

/// What a gateway is asked: how the trade of an order stands, as the order was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: OrderId,
    pub(crate) deadline: Deadline,
    pub(crate) payment: PaymentFacts,
    pub(crate) asked_at: OffsetDateTime,
}

/// The result of an attempt at an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) question: Question,
    pub(crate) verdict: Verdict,
    /// Whether the gateway has said that the trade exists.
    pub(crate) exists: bool,
}

/// The answers of a batch, by order.
pub(crate) type GatewayAnswers = HashMap<OrderId, Answer>;

impl Answer {
    /// Whether the answer still says something about the order as it stands now. An answer about one trade says nothing
    /// about another, and an answer from before an extension says nothing about the time after it. Money that has come in
    /// always counts.
    pub(crate) fn holds_for(&self, order: Option<&OrderFacts>) -> bool {
        let Question { deadline, payment: asked, .. } = &self.question;
        let same = |now: &PaymentFacts| {
            (&now.gateway, &now.trade_no, now.prepay) == (&asked.gateway, &asked.trade_no, asked.prepay)
        };
        matches!(self.verdict, Verdict::Paid(_))
            || order.is_none_or(|order| order.deadline == *deadline && order.payment.as_ref().is_some_and(same))
    }

    /// The payment that this receipt stands for.
    pub(crate) fn payment(&self, receipt: Receipt) -> Payment {
        let Question { id, payment, .. } = &self.question;
        Payment {
            id: id.clone(),
            gateway: payment.gateway.clone(),
            trade_no: payment.trade_no.clone(),
            receipt,
            refund_no: refund_no(id),
        }
    }

    /// What is to be recorded of an answer that settles nothing.
    pub(crate) fn note(&self) -> Option<TradeNote> {
        match self.verdict {
            Verdict::NotFoundYet(_) => Some(self.finding(TradeFinding::NotFound)),
            _ => self.exists.then(|| self.finding(TradeFinding::Exists)),
        }
    }

    /// This finding about the trade, to be recorded.
    pub(crate) fn finding(&self, finding: TradeFinding) -> TradeNote {
        let Question { id, payment, .. } = &self.question;
        TradeNote { id: id.clone(), gateway: payment.gateway.clone(), trade_no: payment.trade_no.clone(), finding }
    }
}
