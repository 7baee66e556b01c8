use http::HeaderMap;
use order::{GatewayAnswer, OrderId, Step, Trade, TradeState, Verdict, next_step};
use payment::{GatewayFault, Notification, RefundState};
use time::OffsetDateTime;

use crate::asking::Desk;
use crate::refund_book::RefundProgress;
use crate::{BookError, Credited, Gateways, OrderBook, Payment};

/// What became of a notification. All but errors are to be answered with success, or the gateway sends it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notified {
    /// It told of a payment, and this became of it.
    Credited(OrderId, Credited),
    /// It told of a payment that is not what was to be paid, and why. It is among the refunds, for a person.
    Mismatch(OrderId, String),
    /// It told of a payment of an order that the database does not know. It is among the refunds, for a person.
    UnknownOrder,
    /// It told of a refund, and this was written down (or was known).
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
    /// It is forged, stale or garbled: nothing was written.
    #[error(transparent)]
    Refused(GatewayFault),
    /// The order that was paid cannot be read: the gateway is to send it again.
    #[error("order {0} cannot be read: {1}")]
    Unreadable(OrderId, String),
    /// The database could not be used: the gateway is to send it again.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// Takes a notification: verifies that the gateway has sent it, decrypts it, and writes down what it says, on the
/// same path as the worker's own findings. Duplicates and notifications in any order do no harm: the order's status
/// decides under its lock.
///
/// # Errors
/// [`NotificationError`]; nothing was written then.
pub async fn take_notification(
    gateways: &Gateways,
    book: &OrderBook,
    gateway: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Notified, NotificationError> {
    let desk = gateways.desk(gateway).ok_or_else(|| NotificationError::UnknownGateway(gateway.to_owned()))?;
    // Not through the desk's queue: nothing is asked, but for new certificates now and then.
    let notification = desk.gateway.parse_notification(headers, body).await.map_err(NotificationError::Refused)?;
    match notification {
        Notification::Trade { trade_no, trade } => {
            let notified = match book.order_of_trade(gateway, &trade_no).await? {
                Some(id) => credit(desk, book, gateway, id, &trade_no, &trade).await?,
                None => Notified::UnknownOrder,
            };
            let problem = match &notified {
                Notified::UnknownOrder => "the database knows no such order",
                Notified::Mismatch(_, detail) => detail,
                _ => return Ok(notified),
            };
            if trade.state == TradeState::Paid {
                tracing::error!(gateway, trade = trade_no, problem, "a payment cannot be placed; it needs a person");
                book.record_unplaced(gateway, &trade_no, &trade, problem).await?;
            }
            Ok(notified)
        }
        Notification::Refund { refund_no, refund } => {
            let progress = match refund.state {
                RefundState::Succeeded => RefundProgress::Succeeded(refund.succeeded_at),
                RefundState::Abnormal => RefundProgress::NeedsPerson("the gateway cannot complete it".to_owned()),
                RefundState::Closed => RefundProgress::NeedsPerson("the gateway gave it up".to_owned()),
                _ => return Ok(Notified::Nothing),
            };
            book.record_refund(&refund_no, &progress).await?;
            Ok(Notified::Refund)
        }
        Notification::Other(_) => Ok(Notified::Nothing),
    }
}

async fn credit(
    desk: &Desk,
    book: &OrderBook,
    gateway: &str,
    id: OrderId,
    trade_no: &str,
    trade: &Trade,
) -> Result<Notified, NotificationError> {
    // The shop may have told nobody that the order is paid at this gateway. The money is there all the same.
    let loaded = book.load_paid_at(std::slice::from_ref(&id), Some(gateway)).await?;
    let facts = match loaded.orders.get(&id) {
        None => return Ok(Notified::UnknownOrder),
        Some(Err(detail)) => return Err(NotificationError::Unreadable(id, detail.clone())),
        Some(Ok(facts)) => facts,
    };
    let Some(mut payment) = facts.payment.clone() else {
        return Ok(Notified::Mismatch(id, "the order is not to be paid at a gateway".to_owned()));
    };
    if payment.gateway != gateway {
        let detail = format!("the order is to be paid at {}, not at {gateway}", payment.gateway);
        return Ok(Notified::Mismatch(id, detail));
    }
    trade_no.clone_into(&mut payment.trade_no);
    let heard = GatewayAnswer::Trade { trade, after_close: false };
    match next_step(&payment, desk.rules(), &heard, OffsetDateTime::now_utc()) {
        Step::Conclude(Verdict::Paid(receipt)) => {
            let payment =
                Payment { id: id.clone(), gateway: gateway.to_owned(), trade_no: trade_no.to_owned(), receipt };
            let written = book.pay(&[payment], ACTOR, None).await?;
            if !written.locked.is_empty() {
                return Err(BookError::Locked("somebody else has the order in hand".to_owned()).into());
            }
            let credited = written.done.into_iter().next();
            Ok(credited.map_or(Notified::UnknownOrder, |(id, credited)| Notified::Credited(id, credited)))
        }
        Step::Conclude(Verdict::Person { detail, .. }) => Ok(Notified::Mismatch(id, detail)),
        _ => Ok(Notified::Nothing),
    }
}

/// Who the order log says it was.
const ACTOR: &str = "notification";
