use std::sync::Arc;
use std::time::Duration;

use database::{DatabaseError, SqlxPool};
use order::{Deadline, TimerId};
use outbox::TimerDue;
use shop::{NewOrder, OrderError};
use tokio::sync::Semaphore;

use super::gateway::DemoGateway;
use crate::failure::Failure;

/// What is done with an order in time.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// The shop learns of the payment and marks the order as paid.
    Pay,
    Cancel,
    Nothing,
    /// There is a trade at the gateway, and the customer does not pay it.
    IgnoreGateway,
    /// Paid at the gateway, and the shop is never told.
    PayAtGateway,
    /// Cancelled in the shop, and then paid at the gateway all the same.
    CancelAndPayAtGateway,
    /// Begun at WeChat Pay, begun anew at Alipay, and paid at both.
    PayTwice,
}

impl Fate {
    pub(super) fn has_trade(self) -> bool {
        matches!(self, Self::IgnoreGateway | Self::PayAtGateway | Self::CancelAndPayAtGateway | Self::PayTwice)
    }
}

/// A trade that the shop opens for an order.
pub(super) struct Trade {
    pub(super) gateway: &'static str,
    pub(super) trade_no: String,
}

/// What one customer did in the end; `None`: nothing more than ordering.
pub(super) struct Visit {
    pub(super) done: Option<Fate>,
    pub(super) too_late: bool,
    pub(super) quantity: i64,
}

/// A customer of the shop.
pub(super) struct Customer {
    pub(super) pool: SqlxPool,
    /// As many as there are connections.
    pub(super) places: Arc<Semaphore>,
    pub(super) gateway: Option<Arc<DemoGateway>>,
    pub(super) order: NewOrder,
    /// The timer that reminds them to pay.
    pub(super) reminder: TimerId,
    pub(super) trades: Vec<Trade>,
}

impl Customer {
    /// Orders, and does what this customer is to do.
    pub(super) async fn visit(self, fate: Fate) -> Result<Visit, Failure> {
        let quantity = self.order.items.iter().map(|item| item.quantity).sum();
        let visit = |done: Option<Fate>, too_late| Ok(Visit { done, too_late, quantity });
        if !self.place_order().await? {
            return visit(None, true);
        }
        if matches!(fate, Fate::Nothing | Fate::IgnoreGateway) {
            return visit(None, false);
        }
        // Some think longer than others; most are in time.
        let thought = 10 + i64::unsigned_abs(quantity) * 13 % 80;
        tokio::time::sleep(self.order.payment_timeout * u32::try_from(thought).unwrap_or(50) / 100).await;
        match self.act(fate).await {
            Ok(0) if fate.has_trade() => visit(None, true),
            // The second payment came too late for its gateway.
            Ok(1) if fate == Fate::PayTwice => visit(Some(Fate::PayAtGateway), false),
            Ok(_) => visit(Some(fate), false),
            Err(Refused::TooLate) => visit(None, true),
            Err(Refused::Broken(failure)) => Err(failure),
        }
    }

    /// Orders and, where it is to be paid at the gateway, has the shop tell it. `false`: too late even for that.
    async fn place_order(&self) -> Result<bool, Failure> {
        let order = &self.order;
        let _place = self.places.acquire().await;
        let mut connection = self.pool.get().await?;
        let created = shop::create(&mut connection, order).await?;
        // The shop reminds who has not paid a second before the deadline.
        let remind_at = Deadline::at(created.deadline.instant() - Duration::from_secs(1));
        outbox::arm_timer(&mut connection, &self.reminder, TimerDue::At(remind_at), None).await?;
        let Some(gateway) = &self.gateway else { return Ok(true) };
        for Trade { gateway: name, trade_no } in &self.trades {
            match shop::begin_prepay(&mut connection, &order.id, name, Some(trade_no)).await {
                Ok(()) => {}
                Err(OrderError::Overdue { .. } | OrderError::NotPending { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            gateway.open(trade_no, order.amount_minor, &order.currency).await?;
            shop::prepay_created(&mut connection, &order.id, name, Some(trade_no)).await?;
        }
        Ok(true)
    }

    /// Returns how many payments the gateways took.
    async fn act(&self, fate: Fate) -> Result<usize, Refused> {
        let id = &self.order.id;
        let _place = self.places.acquire().await;
        let mut connection = self.pool.get().await?;
        let wanted = match fate {
            Fate::PayAtGateway | Fate::CancelAndPayAtGateway => 1,
            Fate::PayTwice => 2,
            Fate::Pay | Fate::Cancel | Fate::Nothing | Fate::IgnoreGateway => 0,
        };
        let mut paid = 0;
        for trade in self.trades.iter().take(wanted) {
            let Some(gateway) = &self.gateway else { break };
            paid += usize::from(gateway.pay(&trade.trade_no).await.map_err(Refused::Broken)?);
        }
        match fate {
            Fate::Pay => shop::pay(&mut connection, id, Some(&format!("demo-payment-{id}"))).await?,
            Fate::Cancel | Fate::CancelAndPayAtGateway => shop::cancel(&mut connection, id).await?,
            Fate::Nothing | Fate::IgnoreGateway | Fate::PayAtGateway | Fate::PayTwice => return Ok(paid),
        }
        // Nobody is to be reminded any more. It may have been sent already.
        outbox::cancel_timer(&mut connection, &self.reminder).await.map_err(|error| Refused::Broken(error.into()))?;
        Ok(paid)
    }
}

/// Why a customer could not do what they wanted.
enum Refused {
    TooLate,
    Broken(Failure),
}

impl From<DatabaseError> for Refused {
    fn from(error: DatabaseError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<OrderError> for Refused {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Overdue { .. } | OrderError::NotPending { .. } => Self::TooLate,
            error => Self::Broken(error.into()),
        }
    }
}
