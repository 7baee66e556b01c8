//! A shop that is played: thousands of orders are made, paid, cancelled and closed.

mod gateway;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Topology;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use order::{Lane, Lanes, OrderId};
use publisher::{Item, NewOrder, OrderError, PgPool, Stock, Summary};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use worker::Purpose;

use self::gateway::{DemoGateway, LedgerCounts};
use crate::commands::run::Roles;
use crate::commands::{audit, print};
use crate::failure::Failure;
use crate::servers::{self, ms};
use crate::settings::{DemoSettings, HttpSettings, RoleSettings, Tuning};

/// The payment timeouts of the demo's orders, in seconds: of 20 orders, 14 have five seconds, and so on. They
/// are mixed on purpose: a short one must not wait for a long one.
const TIMEOUTS_S: [(u64, u32); 3] = [(5, 14), (2, 3), (9, 3)];

/// What is done with an order in time.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// The shop learns of the payment and marks the order as paid.
    Pay,
    Cancel,
    Nothing,
    /// There is a trade at the gateway, and nobody pays it.
    IgnoreGateway,
    /// Paid at the gateway, and the shop is never told.
    PayAtGateway,
    /// Cancelled in the shop, and then paid at the gateway all the same.
    CancelAndPayAtGateway,
}

impl Fate {
    fn has_trade(self) -> bool {
        matches!(self, Self::IgnoreGateway | Self::PayAtGateway | Self::CancelAndPayAtGateway)
    }
}

/// Connections of the shop that the demo plays.
const SHOP_CONNECTIONS: u32 = 8;

pub(crate) async fn run(settings: &DemoSettings) -> Result<(), Failure> {
    if !settings.anywhere {
        let urls = [Some(&settings.database.database_url), settings.broker.amqp_url.as_ref()];
        for url in urls.into_iter().flatten() {
            refuse_elsewhere(url)?;
        }
    }
    let timeouts: Vec<Lane> = TIMEOUTS_S.iter().filter_map(|(s, _)| Lane::new(Duration::from_secs(*s)).ok()).collect();
    let lanes = Lanes::standard(&timeouts);
    let pool = servers::database(&settings.database, SHOP_CONNECTIONS + 2).await?;
    publisher::migrate(&pool).await?;
    let broker = servers::broker(&settings.broker, "demo").await?;
    broker::declare(&Topology::new(&lanes), &broker).await?;

    let gateway = match settings.gateway_sim.clone().or_else(gateway::beside_us) {
        Some(program) => Some(DemoGateway::start(&program).await?),
        None => {
            print("there is no overdue-gateway-sim beside this program, so no order is paid at a gateway");
            None
        }
    };
    let shutdown = CancellationToken::new();
    let role_settings = RoleSettings {
        database: settings.database.clone(),
        broker: settings.broker.clone(),
        tuning: demo_tuning(),
        gateways: gateway.as_ref().map_or_else(gateway::none, |gateway| Ok(gateway.settings.clone()))?,
    };
    let mut roles = Roles::start(&[], &role_settings, &HttpSettings::default(), lanes, &shutdown).await?;
    let shop = Shop::open(pool, gateway, settings).await?;
    let before = shop.stock().await?;
    let played = shop.play(settings.orders).await?;
    let after = shop.stock().await?;
    shutdown.cancel();
    roles.finish(&shutdown, Duration::from_secs(20), Duration::from_secs(3600)).await?;

    let summary = publisher::summary(&shop.pool, &shop.prefix).await?;
    print_summary(&played, &summary, before, after);
    if let Some(worker) = &roles.worker {
        let worker = worker.read();
        print(format_args!(
            "worker: {} orders in {} batches, {} came early and waited on",
            worker.orders, worker.batches, worker.waiting
        ));
        if let Some(gateway) = &shop.gateway {
            print(format_args!(
                "gateway: {} calls, at most {} at a time; {} orders found paid, {} payments too late, {} refunded",
                worker.gateway_calls, worker.gateway_in_flight_max, worker.paid, worker.late, worker.refunded
            ));
            compare(&gateway.ledger().await?, &played)?;
        }
    }
    let books =
        worker::audit(&servers::worker_database(&settings.database, 1, Purpose::Report)?, Duration::from_secs(5))
            .await?;
    print(format_args!("\naudit\n{}", audit::table(&books)));
    if summary.counts.pending > 0 {
        return Err(Failure::negative(format!("{} orders are still pending", summary.counts.pending)));
    }
    audit::verdict(&books)?;
    print("every order is settled and the books are clean");
    Ok(())
}

/// The demo writes thousands of orders: not into somebody's real database by mistake.
fn refuse_elsewhere(url: &SecretString) -> Result<(), Failure> {
    let url: Url =
        url.expose_secret().parse().map_err(|error| Failure::settings(format!("a URL is not valid: {error}")))?;
    // PostgreSQL's URLs may name another host among their parameters.
    let elsewhere = url.query_pairs().any(|(name, _)| matches!(name.as_ref(), "host" | "hostaddr"));
    let here = !elsewhere
        && match url.host() {
            None => true,
            Some(Host::Domain(name)) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
        };
    if here {
        return Ok(());
    }
    let host = url.host_str().unwrap_or_default();
    Err(Failure::settings(format!(
        "{host} is not this machine; the demo writes thousands of orders: give --anywhere if that is what you want"
    )))
}

fn demo_tuning() -> Tuning {
    Tuning {
        pipelines: 2,
        batch_orders_max: 2048,
        prefetch_messages: 2048,
        coalesce_window: Duration::from_millis(50),
        claim_orders_max: 8192,
        claim_lease: Duration::from_secs(20),
        outbox_poll: Duration::from_secs(2),
        event_source: "/overdue".to_owned(),
        unknown_attempts_max: 5,
        hold_max: Duration::from_mins(15),
        sweep_every: Duration::from_secs(30),
        sweep_grace: Duration::from_secs(60),
    }
}

/// What the gateway has in its ledger must be what the shop has in its books.
fn compare(ledger: &LedgerCounts, played: &Played) -> Result<(), Failure> {
    print(format_args!(
        "its ledger: {} trades paid, {} closed unpaid, {} refunded, {} open still",
        ledger.paid, ledger.closed, ledger.refunded, ledger.open
    ));
    let paid_late = u64::from(played.paid_late);
    if ledger.open > 0 || ledger.refunds != paid_late || ledger.refunded != paid_late {
        return Err(Failure::negative(format!(
            "the gateway's ledger is not as it must be: {paid_late} payments came too late: {ledger:?}"
        )));
    }
    if ledger.paid != u64::from(played.paid_at_gateway) {
        return Err(Failure::negative(format!(
            "{} customers have paid at the gateway, its ledger says {}",
            played.paid_at_gateway, ledger.paid
        )));
    }
    Ok(())
}

/// The shop whose customers order, pay and cancel.
struct Shop {
    pool: PgPool,
    gateway: Option<Arc<DemoGateway>>,
    /// Begins the IDs and SKUs of this run, so that earlier runs do not matter.
    prefix: String,
    skus: u32,
}

/// What the customers did.
#[derive(Default)]
struct Played {
    created: u32,
    paid: u32,
    cancelled: u32,
    too_late: u32,
    /// Of those that are paid: at the gateway.
    paid_at_gateway: u32,
    /// After they had cancelled.
    paid_late: u32,
    sold: i64,
}

impl Shop {
    async fn open(pool: PgPool, gateway: Option<DemoGateway>, settings: &DemoSettings) -> Result<Self, Failure> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let gateway = gateway.map(Arc::new);
        let shop = Self { pool, gateway, prefix: format!("demo-{}-", &id[..12]), skus: settings.skus };
        // Enough of every SKU for all orders together, spread evenly, with some to spare.
        let each = i64::from(settings.orders / settings.skus + 1) * 10;
        for number in 0..settings.skus {
            publisher::add_stock(&shop.pool, &shop.sku(number), each).await?;
        }
        Ok(shop)
    }

    fn sku(&self, number: u32) -> String {
        format!("{}sku-{:04}", self.prefix, number % self.skus)
    }

    async fn stock(&self) -> Result<Stock, Failure> {
        Ok(publisher::stock(&self.pool, &self.prefix).await?)
    }

    /// Lets the customers act, and shows what becomes of their orders until all are settled (or, should that
    /// fail, half a minute after the last deadline).
    async fn play(&self, orders: u32) -> Result<Played, Failure> {
        print(format_args!(
            "{orders} orders over {} SKUs, to be paid within 5 s (most), 2 s (some) or 9 s (some)",
            self.skus
        ));
        let view = View::new(orders);
        let places = Arc::new(Semaphore::new(SHOP_CONNECTIONS as usize));
        let mut customers = JoinSet::new();
        for number in 0..orders {
            let mut order = self.order(number);
            let fate = fate(number, self.gateway.is_some());
            order.gateway = fate.has_trade().then(|| "wechat".to_owned());
            let customer =
                Customer { pool: self.pool.clone(), gateway: self.gateway.clone(), places: Arc::clone(&places), order };
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
                    let counts = publisher::counts(&self.pool, &self.prefix).await?;
                    view.show(counts);
                    let refunded = counts.refunded >= i64::from(played.paid_late);
                    let over = customers.is_empty() && counts.pending == 0 && refunded;
                    if over || give_up.is_some_and(|at| Instant::now() > at) {
                        view.end();
                        return Ok(played);
                    }
                }
            }
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

/// Of ten orders three are paid and one is cancelled. Where there is a gateway, some of the others have a trade there.
fn fate(number: u32, gateway: bool) -> Fate {
    match number / 3 % 10 {
        1 | 4 | 7 => Fate::Pay,
        9 => Fate::Cancel,
        2 if gateway => Fate::IgnoreGateway,
        5 if gateway => Fate::PayAtGateway,
        8 if gateway && number.is_multiple_of(3) => Fate::CancelAndPayAtGateway,
        _ => Fate::Nothing,
    }
}

/// What one customer did in the end; `None`: nothing more than ordering.
struct Visit {
    done: Option<Fate>,
    too_late: bool,
    quantity: i64,
}

struct Customer {
    pool: PgPool,
    gateway: Option<Arc<DemoGateway>>,
    places: Arc<Semaphore>,
    order: NewOrder,
}

impl Customer {
    async fn visit(self, fate: Fate) -> Result<Visit, Failure> {
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
            Ok(true) => visit(Some(fate), false),
            Ok(false) | Err(Refused::TooLate) => visit(None, true),
            Err(Refused::Broken(failure)) => Err(failure),
        }
    }

    /// Orders and, where it is to be paid at the gateway, has the shop tell it. `false`: too late even for that.
    async fn place_order(&self) -> Result<bool, Failure> {
        let order = &self.order;
        let _place = self.places.acquire().await;
        publisher::create(&self.pool, order).await?;
        let (Some(gateway), Some(_)) = (&self.gateway, &order.gateway) else { return Ok(true) };
        match publisher::begin_prepay(&self.pool, &order.id).await {
            Ok(()) => {}
            Err(OrderError::Overdue { .. } | OrderError::NotPending { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        gateway.open(&order.id, order.amount_minor, &order.currency).await?;
        publisher::prepay_created(&self.pool, &order.id).await?;
        Ok(true)
    }

    /// `false`: the gateway took no payment any more.
    async fn act(&self, fate: Fate) -> Result<bool, Refused> {
        let id = &self.order.id;
        let _place = self.places.acquire().await;
        match fate {
            Fate::Pay => publisher::pay(&self.pool, id, Some(&format!("demo-payment-{id}"))).await?,
            Fate::Cancel | Fate::CancelAndPayAtGateway => publisher::cancel(&self.pool, id).await?,
            Fate::Nothing | Fate::IgnoreGateway | Fate::PayAtGateway => {}
        }
        match (&self.gateway, fate) {
            (Some(gateway), Fate::PayAtGateway | Fate::CancelAndPayAtGateway) => {
                gateway.pay(id).await.map_err(Refused::Broken)
            }
            _ => Ok(true),
        }
    }
}

/// Why a customer could not do what they wanted.
enum Refused {
    TooLate,
    Broken(Failure),
}

impl From<OrderError> for Refused {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Overdue { .. } | OrderError::NotPending { .. } => Self::TooLate,
            error => Self::Broken(error.into()),
        }
    }
}

impl Played {
    fn add(&mut self, visit: Visit) {
        self.created += 1;
        self.too_late += u32::from(visit.too_late);
        match visit.done {
            Some(Fate::Pay) => {
                self.paid += 1;
                self.sold += visit.quantity;
            }
            Some(Fate::PayAtGateway) => {
                self.paid += 1;
                self.paid_at_gateway += 1;
                self.sold += visit.quantity;
            }
            Some(Fate::Cancel) => self.cancelled += 1,
            Some(Fate::CancelAndPayAtGateway) => {
                self.cancelled += 1;
                self.paid_late += 1;
            }
            _ => {}
        }
    }
}

/// The live view: one line that changes on a terminal, a line every half second elsewhere.
struct View(Option<ProgressBar>);

impl View {
    fn new(orders: u32) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} settled  {msg}");
        let bar = stderr().is_terminal().then(|| ProgressBar::new(orders.into()));
        Self(bar.map(|bar| bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))))
    }

    fn show(&self, counts: publisher::Counts) {
        let settled = counts.paid + counts.cancelled + counts.closed;
        let text = format!(
            "pending {:5}  paid {:5}  cancelled {:5}  closed {:5}",
            counts.pending, counts.paid, counts.cancelled, counts.closed
        );
        match &self.0 {
            Some(bar) => {
                bar.set_position(settled.unsigned_abs());
                bar.set_message(text);
            }
            None => print(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish();
        }
    }
}

fn print_summary(played: &Played, summary: &Summary, before: Stock, after: Stock) {
    let counts = summary.counts;
    print("\nsummary");
    print(format_args!(
        "created {}, paid {}, cancelled {}, closed {}",
        played.created, counts.paid, counts.cancelled, counts.closed
    ));
    if played.too_late > 0 {
        print(format_args!("{} customers wanted to pay or cancel too late and were refused", played.too_late));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["payment timeout", "closed", "late p50 (ms)", "late p99 (ms)", "late max (ms)"]);
    for (timeout_s, late) in &summary.lateness {
        table.add_row([
            format!("{timeout_s} s"),
            late.closed.to_string(),
            ms(late.p50).to_string(),
            ms(late.p99).to_string(),
            ms(late.max).to_string(),
        ]);
    }
    print(table);
    print(format_args!(
        "stock before: {} available, {} reserved; after: {} available, {} reserved, {} sold (sum {})",
        before.available,
        before.reserved,
        after.available,
        after.reserved,
        played.sold,
        if before.available == after.available + after.reserved + played.sold { "exact" } else { "WRONG" }
    ));
}
