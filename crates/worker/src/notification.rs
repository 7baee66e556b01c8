use book::{Actor, BookError, Credited, ItemReply, MoneyAside, RefundProgress, Refunds, Trades, TrailStep};
use http::HeaderMap;
use order::{GatewayAnswer, OrderId, PaymentFacts, PaymentState, Step, Trade, TradeState, Verdict, next_step};
use payment::{Acknowledgement, GatewayFault, Notification, RefundState};
use time::OffsetDateTime;

use crate::answer::payment;
use crate::attempt::state;
use crate::gateway_client::GatewayClient;
use crate::gateways::Gateways;
use crate::shared_book::SharedBook;

/// Takes the notifications of gateways. They go to the same calls of the order book as the worker's own findings.
#[derive(Clone)]
pub struct Notifications {
    gateways: Gateways,
    book: SharedBook,
    trades: Trades,
    refunds: Refunds,
}

/// How a notification was taken. All of these are to be answered with success, or the gateway sends it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotificationOutcome {
    /// It told of a payment, which was recorded like this.
    Credited(OrderId, Credited),
    /// It told of a payment that is not what was to be paid, and why. The payment is among the refunds, for a person.
    Mismatch(OrderId, String),
    /// It told of a payment of an order that the book does not know. The payment is among the refunds, for a person.
    UnknownOrder,
    /// It told how a refund ended, and that is on record.
    Refund,
    /// It told nothing that matters here: a state that means no money, or another kind of event.
    Nothing,
}

/// Why a notification could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// No gateway of this name is configured.
    #[error("no payment gateway called {0} is configured here")]
    UnknownGateway(String),
    /// It is forged, stale or garbled. Nothing was recorded.
    #[error(transparent)]
    Refused(GatewayFault),
    /// The order that was paid cannot be read, or cannot be changed: the gateway is to send it again.
    #[error("order {0} cannot take the payment now: {1}")]
    Later(OrderId, String),
    /// The book could not be used: the gateway is to send it again.
    #[error(transparent)]
    Book(#[from] BookError),
}

impl NotificationOutcome {
    fn words(&self) -> String {
        match self {
            Self::Credited(_, credited) => format!("recorded: {}", credited.words()),
            Self::Mismatch(_, why) => format!("not recorded: {why}"),
            Self::UnknownOrder => "no such order".to_owned(),
            Self::Refund | Self::Nothing => "nothing to be done".to_owned(),
        }
    }
}

impl Notifications {
    /// Notifications of these gateways.
    #[must_use]
    pub fn new(gateways: Gateways, book: SharedBook, trades: Trades, refunds: Refunds) -> Self {
        Self { gateways, book, trades, refunds }
    }

    /// Takes a notification: verifies that the gateway has sent it, decrypts it, and records what it says. Duplicates, and
    /// notifications in any order, do no harm: the order's status decides under its lock.
    ///
    /// # Errors
    /// [`NotificationError`]; nothing was recorded then.
    pub async fn take(
        &self,
        gateway: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<NotificationOutcome, NotificationError> {
        let client = self.gateways.client(gateway);
        let client = client.ok_or_else(|| NotificationError::UnknownGateway(gateway.to_owned()))?;
        // Past the bounds for calls: the gateway is not called, but for new certificates now and then.
        let parsed = client.gateway.parse_notification(headers, body).await;
        match parsed.map_err(NotificationError::Refused)? {
            Notification::Trade { trade_no, trade } => self.take_trade(client, gateway, &trade_no, &trade).await,
            Notification::Refund { refund_no, refund } => {
                let progress = match refund.state {
                    RefundState::Succeeded => RefundProgress::Succeeded(refund.succeeded_at),
                    RefundState::Abnormal => RefundProgress::NeedsPerson("the gateway cannot complete it".to_owned()),
                    RefundState::Closed => RefundProgress::NeedsPerson("the gateway gave it up".to_owned()),
                    _ => return Ok(NotificationOutcome::Nothing),
                };
                self.refunds.record(&refund_no, &progress).await?;
                Ok(NotificationOutcome::Refund)
            }
            Notification::Other(_) => Ok(NotificationOutcome::Nothing),
        }
    }

    /// What the gateway expects as the answer to a notification that was taken.
    #[must_use]
    pub fn acknowledgement(&self, gateway: &str) -> Option<Acknowledgement> {
        self.gateways.client(gateway).map(|client| client.gateway.acknowledgement())
    }

    async fn take_trade(
        &self,
        client: &GatewayClient,
        gateway: &str,
        trade_no: &str,
        trade: &Trade,
    ) -> Result<NotificationOutcome, NotificationError> {
        let mut orders = self.trades.orders_of(gateway, trade_no).await?;
        let outcome = match (orders.pop(), orders.pop()) {
            (None, _) => NotificationOutcome::UnknownOrder,
            (Some(id), None) => self.credit(client, gateway, id, trade_no, trade).await?,
            // Which of them it pays, and how much of each, only a person can say.
            (Some(id), Some(other)) => {
                let detail = format!("the trade is on record for several orders, among them {other} and {id}");
                NotificationOutcome::Mismatch(id, detail)
            }
        };
        if let NotificationOutcome::Credited(id, _) | NotificationOutcome::Mismatch(id, _) = &outcome {
            client.tell(TrailStep::Notified, id, &format!("trade {trade_no}: {}; {}", state(trade), outcome.words()));
        }
        let (id, problem) = match &outcome {
            NotificationOutcome::UnknownOrder => (None, "the database knows no such order"),
            NotificationOutcome::Mismatch(id, detail) => (Some(id), detail.as_str()),
            _ => return Ok(outcome),
        };
        if matches!(trade.state, TradeState::Paid | TradeState::Refunded) {
            tracing::error!(gateway, trade = trade_no, problem, "a payment cannot be credited; it needs a person");
            let (gateway, trade_no) = (gateway.to_owned(), trade_no.to_owned());
            let (id, money, problem) = (id.cloned(), trade.money(), problem.to_owned());
            self.book.book.set_aside(&[MoneyAside { id, gateway, trade_no, money, problem }]).await?;
        }
        Ok(outcome)
    }

    async fn credit(
        &self,
        client: &GatewayClient,
        gateway: &str,
        id: OrderId,
        trade_no: &str,
        trade: &Trade,
    ) -> Result<NotificationOutcome, NotificationError> {
        // The shop may have told the book nothing of a payment at this gateway. The money is there all the same.
        let mut loaded = self.book.book.load(std::slice::from_ref(&id), Some(gateway)).await?;
        let facts = match loaded.items.remove(&id) {
            Some(ItemReply::Done(loaded)) => loaded.facts,
            Some(ItemReply::Unknown) => return Ok(NotificationOutcome::UnknownOrder),
            Some(ItemReply::Refused(detail)) => return Err(NotificationError::Later(id, detail)),
            _ => return Err(NotificationError::Later(id, "it is in use".to_owned())),
        };
        let asked = match attempt(&facts.payments, gateway, trade_no) {
            Ok(asked) => asked,
            Err(detail) => return Ok(NotificationOutcome::Mismatch(id, detail)),
        };
        // We, or the shop, have refunded what is on record.
        if trade.state == TradeState::Refunded && asked.state == PaymentState::Paid {
            return Ok(NotificationOutcome::Nothing);
        }
        let answer = GatewayAnswer::Trade { trade, after_close: false };
        let receipt = match next_step(&asked, &client.rules, &answer, OffsetDateTime::now_utc()) {
            Step::Conclude(Verdict::Paid(receipt)) => receipt,
            Step::Conclude(Verdict::Person { detail, .. }) => return Ok(NotificationOutcome::Mismatch(id, detail)),
            _ => return Ok(NotificationOutcome::Nothing),
        };
        let payment = payment(&id, gateway, trade_no, receipt);
        let mut paid = self.book.book.pay(&[payment], &Actor::on_timeout("notification"), None).await?;
        match paid.items.remove(&id) {
            Some(ItemReply::Done(credited)) => Ok(NotificationOutcome::Credited(id, credited)),
            Some(ItemReply::Unknown) => Ok(NotificationOutcome::UnknownOrder),
            Some(ItemReply::Refused(detail)) => Err(NotificationError::Later(id, detail)),
            _ => Err(NotificationError::Later(id, "another transaction has it locked".to_owned())),
        }
    }
}

/// The attempt that a trade is, among those of its order. One of another number is like the others at its gateway: the shop may
/// have told the book nothing of it. An error says why there is none.
fn attempt(payments: &[PaymentFacts], gateway: &str, trade_no: &str) -> Result<PaymentFacts, String> {
    let at_gateway = || payments.iter().filter(|payment| payment.gateway == gateway);
    if let Some(known) = at_gateway().find(|payment| payment.trade_no == trade_no) {
        return Ok(known.clone());
    }
    let like = at_gateway().next().ok_or_else(|| match payments.first() {
        Some(payment) => format!("the order is to be paid at {}, not at {gateway}", payment.gateway),
        None => "the order is not to be paid at a gateway".to_owned(),
    })?;
    Ok(PaymentFacts { trade_no: trade_no.to_owned(), state: PaymentState::Open, ..like.clone() })
}
