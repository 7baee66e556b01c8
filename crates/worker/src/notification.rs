use book::{Actor, BookError, Credited, ItemReply, Payment, RefundProgress, Refunds, Trades};
use http::HeaderMap;
use order::{GatewayAnswer, OrderId, Step, Trade, TradeState, Verdict, next_step};
use payment::{GatewayFault, Notification, RefundState, refund_no};
use time::OffsetDateTime;

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
        let problem = match &outcome {
            NotificationOutcome::UnknownOrder => "the database knows no such order",
            NotificationOutcome::Mismatch(_, detail) => detail,
            _ => return Ok(outcome),
        };
        if trade.state == TradeState::Paid {
            tracing::error!(
                gateway,
                trade = trade_no,
                problem,
                "a payment belongs to no order here; it needs a person"
            );
            self.trades.record_unplaced(gateway, trade_no, trade, problem).await?;
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
        let Some(mut payment) = facts.payment else {
            return Ok(NotificationOutcome::Mismatch(id, "the order is not to be paid at a gateway".to_owned()));
        };
        if payment.gateway != gateway {
            let detail = format!("the order is to be paid at {}, not at {gateway}", payment.gateway);
            return Ok(NotificationOutcome::Mismatch(id, detail));
        }
        trade_no.clone_into(&mut payment.trade_no);
        let answer = GatewayAnswer::Trade { trade, after_close: false };
        let receipt = match next_step(&payment, &client.rules, &answer, OffsetDateTime::now_utc()) {
            Step::Conclude(Verdict::Paid(receipt)) => receipt,
            Step::Conclude(Verdict::Person { detail, .. }) => return Ok(NotificationOutcome::Mismatch(id, detail)),
            _ => return Ok(NotificationOutcome::Nothing),
        };
        let (gateway, trade_no) = (gateway.to_owned(), trade_no.to_owned());
        let payment = Payment { id: id.clone(), gateway, trade_no, receipt, refund_no: refund_no(&id) };
        let mut paid = self.book.book.pay(&[payment], &Actor::on_timeout("notification"), None).await?;
        match paid.items.remove(&id) {
            Some(ItemReply::Done(credited)) => Ok(NotificationOutcome::Credited(id, credited)),
            Some(ItemReply::Unknown) => Ok(NotificationOutcome::UnknownOrder),
            Some(ItemReply::Refused(detail)) => Err(NotificationError::Later(id, detail)),
            _ => Err(NotificationError::Later(id, "another transaction has it locked".to_owned())),
        }
    }
}
