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

use crate::commands::run::Roles;
use crate::commands::{audit, print};
use crate::failure::Failure;
use crate::servers::{self, ms};
use crate::settings::{DemoSettings, Tuning};

/// The payment timeouts of the demo's orders, in seconds: of 20 orders, 14 have five seconds, and so on. They
/// are mixed on purpose: a short one must not wait for a long one.
const TIMEOUTS_S: [(u64, u32); 3] = [(5, 14), (2, 3), (9, 3)];

/// What is done with an order in time.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Pay,
    Cancel,
    Nothing,
}

/// Connections of the shop that the demo plays.
const SHOP_CONNECTIONS: u32 = 8;

pub(crate) async fn run(settings: &DemoSettings) -> Result<(), Failure> {
    if !settings.anywhere {
        for url in [&settings.database.database_url, &settings.broker.amqp_url] {
            refuse_elsewhere(url)?;
        }
    }
    let timeouts: Vec<Lane> = TIMEOUTS_S.iter().filter_map(|(s, _)| Lane::new(Duration::from_secs(*s)).ok()).collect();
    let lanes = Lanes::standard(&timeouts);
    let pool = servers::database(&settings.database, SHOP_CONNECTIONS + 2).await?;
    publisher::migrate(&pool).await?;
    let broker = servers::broker(&settings.broker, "demo").await?;
    Topology::new(&lanes).declare(&broker).await?;

    let shutdown = CancellationToken::new();
    let tuning = demo_tuning();
    let mut roles = Roles::start(&[], &settings.database, &settings.broker, lanes, &tuning, &shutdown).await?;
    let shop = Shop::open(pool, settings).await?;
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
    }
}

/// The shop whose customers order, pay and cancel.
struct Shop {
    pool: PgPool,
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
    sold: i64,
}

impl Shop {
    async fn open(pool: PgPool, settings: &DemoSettings) -> Result<Self, Failure> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let shop = Self { pool, prefix: format!("demo-{}-", &id[..12]), skus: settings.skus };
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
            customers.spawn(customer(self.pool.clone(), Arc::clone(&places), self.order(number), fate(number)));
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
                    let over = customers.is_empty() && counts.pending == 0;
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

/// Of ten orders three are paid and one is cancelled.
fn fate(number: u32) -> Fate {
    match number / 3 % 10 {
        1 | 4 | 7 => Fate::Pay,
        9 => Fate::Cancel,
        _ => Fate::Nothing,
    }
}

/// What one customer did in the end; `None`: nothing more than ordering.
struct Visit {
    done: Option<Fate>,
    too_late: bool,
    quantity: i64,
}

async fn customer(pool: PgPool, places: Arc<Semaphore>, order: NewOrder, fate: Fate) -> Result<Visit, OrderError> {
    let quantity = order.items.iter().map(|item| item.quantity).sum();
    let place = places.acquire().await;
    publisher::create(&pool, &order).await?;
    drop(place);
    if fate == Fate::Nothing {
        return Ok(Visit { done: None, too_late: false, quantity });
    }
    // Some think longer than others; most are in time.
    let thought = 10 + quantity.unsigned_abs() * 13 % 80;
    tokio::time::sleep(order.payment_timeout * u32::try_from(thought).unwrap_or(50) / 100).await;
    let _place = places.acquire().await;
    let acted = match fate {
        Fate::Pay => publisher::pay(&pool, &order.id, Some(&format!("demo-payment-{}", order.id))).await,
        _ => publisher::cancel(&pool, &order.id).await,
    };
    match acted {
        Ok(()) => Ok(Visit { done: Some(fate), too_late: false, quantity }),
        Err(OrderError::Overdue { .. } | OrderError::NotPending { .. }) => {
            Ok(Visit { done: None, too_late: true, quantity })
        }
        Err(error) => Err(error),
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
            Some(Fate::Cancel) => self.cancelled += 1,
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
