//! A shop whose customers order, pay and cancel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use database::SqlxPool;
use order::{Lane, OrderId, TimerId};
use shop::{Item, NewOrder, Stock};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::customer::{Customer, Fate, Trade};
use super::gateway::DemoGateway;
use super::progress::Progress;
use super::summary::Played;
use crate::failure::Failure;
use crate::output::print;

/// The payment timeouts of the demo's orders, in seconds: of 20 orders, 14 have five seconds, and so on. They
/// are mixed on purpose: a short one must not wait for a long one.
const TIMEOUTS_S: [(u64, u32); 3] = [(5, 14), (2, 3), (9, 3)];

/// How many customers are served at a time.
const PLACES: usize = 8;

/// How many connections the shop has: for its customers, and to look at their orders.
pub(super) const CONNECTIONS: usize = PLACES + 2;

/// The shop that is played.
pub(super) struct Play {
    pub(super) pool: SqlxPool,
    pub(super) gateway: Option<Arc<DemoGateway>>,
    /// Begins the IDs and SKUs of this run, so that earlier runs do not matter.
    pub(super) prefix: String,
    skus: u32,
}

impl Play {
    /// A shop with enough of every SKU for all orders together, spread evenly, with some to spare.
    pub(super) async fn open(
        pool: SqlxPool,
        gateway: Option<DemoGateway>,
        orders: u32,
        skus: u32,
    ) -> Result<Self, Failure> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let play = Self { pool, gateway: gateway.map(Arc::new), prefix: format!("demo-{}-", &id[..12]), skus };
        let each = i64::from(orders / skus + 1) * 10;
        let mut connection = play.pool.get().await?;
        for number in 0..skus {
            shop::add_stock(&mut connection, &play.sku(number), each).await?;
        }
        drop(connection);
        Ok(play)
    }

    fn sku(&self, number: u32) -> String {
        format!("{}sku-{:04}", self.prefix, number % self.skus)
    }

    pub(super) async fn stock(&self) -> Result<Stock, Failure> {
        Ok(shop::stock(&mut *self.pool.get().await?, &self.prefix).await?)
    }

    /// Lets the customers act, and shows how their orders go until all are settled, or until half a minute after the last
    /// deadline.
    pub(super) async fn play(&self, orders: u32) -> Result<Played, Failure> {
        print(format_args!(
            "{orders} orders over {} SKUs, to be paid within 5 s (most), 2 s (some) or 9 s (some)",
            self.skus
        ));
        let progress = Progress::new(orders);
        let places = Arc::new(Semaphore::new(PLACES));
        let mut customers = JoinSet::new();
        for number in 0..orders {
            let order = self.order(number);
            let fate = fate(number, self.gateway.is_some());
            let (pool, gateway, places) = (self.pool.clone(), self.gateway.clone(), Arc::clone(&places));
            let trades = if fate.has_trade() { trades(&order.id, number, fate) } else { Vec::new() };
            let reminder = TimerId::new("remind", order.id.as_str());
            let reminder = reminder.map_err(|error| anyhow::anyhow!("a reminder cannot be armed: {error}"))?;
            let customer = Customer { pool, gateway, places, order, reminder, trades };
            customers.spawn(customer.visit(fate));
        }
        let mut played = Played::default();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut give_up = None;
        loop {
            tokio::select! {
                Some(done) = customers.join_next() => {
                    played.add(done.map_err(|error| anyhow::anyhow!("a customer broke: {error}"))??);
                    if customers.is_empty() {
                        give_up = Some(Instant::now() + Duration::from_secs(40));
                    }
                }
                _ = tick.tick() => {
                    let counts = shop::counts(&mut *self.pool.get().await?, &self.prefix).await?;
                    progress.show(counts);
                    let refunded = counts.refunded >= i64::from(played.paid_late + played.paid_twice);
                    let settled = customers.is_empty() && counts.pending == 0 && refunded;
                    let over = settled && self.nothing_is_open().await?;
                    if over || give_up.is_some_and(|at| Instant::now() > at) {
                        progress.end();
                        return Ok(played);
                    }
                }
            }
        }
    }

    /// Waits until each reminder that has fired has arrived at the shop's own service, or for a while.
    pub(super) async fn until_reminders_have_arrived(&self) -> Result<(), Failure> {
        let Some(gateway) = &self.gateway else { return Ok(()) };
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let timers = shop::timer_summary(&mut *self.pool.get().await?, &self.prefix).await?;
            let arrived = i64::try_from(gateway.hooks().await?.events).unwrap_or(i64::MAX);
            if (timers.armed == 0 && arrived >= timers.fired) || Instant::now() > give_up {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether no trade can be paid any more.
    async fn nothing_is_open(&self) -> Result<bool, Failure> {
        match &self.gateway {
            Some(gateway) => Ok(gateway.ledger().await?.open == 0),
            None => Ok(true),
        }
    }

    fn order(&self, number: u32) -> NewOrder {
        let items = (0..=number % 3)
            .map(|line| Item { sku: self.sku(number + line * 31), quantity: i64::from(1 + (number + line) % 3) });
        NewOrder {
            // Digits and hyphens only, so this cannot fail.
            id: OrderId::new(&format!("{}{number}", self.prefix)).unwrap_or_else(|error| unreachable!("{error}")),
            amount_minor: 1_000 + i64::from(number),
            currency: "CNY".to_owned(),
            items: items.collect(),
            gateway: None,
            payment_timeout: Duration::from_secs(timeout_s(number)),
        }
    }
}

/// A lane for each payment timeout.
pub(super) fn timeouts() -> Vec<Lane> {
    TIMEOUTS_S.iter().filter_map(|(seconds, _)| Lane::new(Duration::from_secs(*seconds)).ok()).collect()
}

fn timeout_s(number: u32) -> u64 {
    let mut place = number * 7 % 20;
    for (seconds, share) in TIMEOUTS_S {
        if place < share {
            return seconds;
        }
        place -= share;
    }
    TIMEOUTS_S[0].0
}

/// Every other order with a trade is at WeChat Pay, the others at Alipay. Some customers begin at one and go on at the other.
fn trades(id: &OrderId, number: u32, fate: Fate) -> Vec<Trade> {
    let wechat = Trade { gateway: "wechat", trade_no: id.to_string() };
    // Alipay takes no hyphens.
    let alipay = Trade { gateway: "alipay", trade_no: id.as_str().replace('-', "_") };
    match number % 4 {
        _ if fate == Fate::PayTwice => vec![wechat, alipay],
        0 if number.is_multiple_of(12) => vec![wechat, alipay],
        1 | 3 => vec![alipay],
        _ => vec![wechat],
    }
}

/// Of ten orders three are paid and one is cancelled. Where there is a gateway, some of the others have a trade there.
fn fate(number: u32, gateway: bool) -> Fate {
    match number / 3 % 10 {
        1 | 4 | 7 => Fate::Pay,
        9 => Fate::Cancel,
        2 if gateway => Fate::IgnoreGateway,
        5 if gateway && number.is_multiple_of(15) => Fate::PayTwice,
        5 if gateway => Fate::PayAtGateway,
        8 if gateway && number.is_multiple_of(3) => Fate::CancelAndPayAtGateway,
        _ => Fate::Nothing,
    }
}
