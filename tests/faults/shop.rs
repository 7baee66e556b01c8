//! A shop whose customers go on whatever breaks, and what its books must say in the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Outgoing, Publisher};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use order::{Lanes, OrderId, TimerId};
use outbox::TimerDue;
use serde_json::Value;
use shop::{NewOrder, OrderError};
use tests::World;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a customer did, as far as the shop could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    /// Nothing: the order must close.
    Nothing,
    /// Paid, and the shop has said thank you: it must be paid.
    Paid,
    /// Cancelled.
    Cancelled,
    /// The database went away in the middle: anything but pending will do.
    Unclear,
}

/// What was found in the end.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) orders: u64,
    pub(crate) closed: u64,
    pub(crate) paid: u64,
    pub(crate) cancelled: u64,
    /// By the sweep.
    pub(crate) rescued: u64,
    /// Timers that have fired.
    pub(crate) timers: u64,
    /// Different ones that were heard.
    pub(crate) events: u64,
    /// Different ones that were delivered by webhooks.
    pub(crate) delivered: u64,
    /// Orders that are pending still.
    pub(crate) lost: u64,
    /// From the deadline of an order to its close, at worst.
    pub(crate) late_max_s: f64,
    /// What else is wrong.
    pub(crate) wrong: Vec<String>,
}

impl Books {
    /// What is announced once each: an end of an order, and a timer that fires. No timer is armed twice.
    pub(crate) fn facts(&self) -> u64 {
        self.closed + self.paid + self.timers
    }

    /// So many different events were delivered by webhooks.
    pub(crate) fn deliver(&mut self, delivered: u64) {
        self.delivered = delivered;
        if delivered != self.facts() {
            self.wrong.push(format!("{delivered} events delivered for {} facts", self.facts()));
        }
    }

    pub(crate) fn verdict(&self) -> String {
        match (self.lost, self.wrong.as_slice()) {
            (0, []) => "clean".to_owned(),
            (lost, wrong) => format!("{lost} lost; {}", wrong.join("; ")),
        }
    }
}

/// The flow of orders.
pub(crate) struct Shop {
    stop: CancellationToken,
    known: Arc<Mutex<HashMap<OrderId, Did>>>,
    task: JoinHandle<()>,
}

/// Pieces on the shelf; more than are ever sold.
const STOCK: i64 = 1_000_000;

/// How long an order may take to settle once nothing is broken any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

const LISTENER: &str = "listener";

impl Shop {
    /// Opens: some forty orders a second, to be paid within two or three seconds.
    pub(crate) async fn open(world: &Arc<World>) -> Self {
        world.stock("tea", STOCK).await;
        listen(world).await;
        let (stop, known) = (CancellationToken::new(), Arc::<Mutex<HashMap<OrderId, Did>>>::default());
        let task = tokio::spawn(trade(Arc::clone(world), stop.clone(), Arc::clone(&known)));
        Self { stop, known, task }
    }

    /// How many orders there have been.
    pub(crate) fn orders(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until so many more orders have come.
    pub(crate) async fn goes_on(&self, count: usize) {
        let enough = self.orders() + count;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.orders() < enough && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Closes the shop, waits until every order is settled, and looks at the books.
    pub(crate) async fn close(self, world: &World) -> Books {
        self.stop.cancel();
        self.task.await.expect("the shop does not panic");
        let known = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
        let pending = "select count(*) from orders where status = 'pending'";
        let unsent = "select count(*) from outbox";
        let armed = "select count(*) from timers where state = 'armed'";
        while (count(world, pending).await != Some(0)
            || count(world, armed).await != Some(0)
            || count(world, unsent).await != Some(0))
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut books = Books { orders: known.len() as u64, ..Books::default() };
        let rows: Vec<(String, String)> =
            sqlx::query_as("select id, status from orders").fetch_all(&world.pool).await.expect("the orders");
        let status: HashMap<&str, &str> = rows.iter().map(|(id, status)| (id.as_str(), status.as_str())).collect();
        for (id, did) in &known {
            let is = status.get(id.as_str()).copied();
            let fits = match (did, is) {
                (_, Some("pending")) => true,
                (Did::Nothing, is) => is == Some("closed"),
                (Did::Paid, is) => is == Some("paid"),
                (Did::Cancelled, is) => is == Some("cancelled"),
                // It may not even be there.
                (Did::Unclear, _) => true,
            };
            if !fits {
                books.wrong.push(format!("order {id}: {did:?}, but {is:?}"));
            }
        }
        for (_, status) in &rows {
            match status.as_str() {
                "closed" => books.closed += 1,
                "paid" => books.paid += 1,
                "cancelled" => books.cancelled += 1,
                _ => books.lost += 1,
            }
        }
        books.late_max_s = sqlx::query_scalar(LATE_MAX).fetch_one(&world.pool).await.expect("the lateness");
        books.rescued = world.number("select count(*) from order_log where actor = 'sweep'").await as u64;
        let (available, reserved) = world.shelf("tea").await;
        if (available, reserved) != (STOCK - books.paid as i64, books.lost as i64) {
            books.wrong.push(format!("the stock is {available} and {reserved}"));
        }
        if world.number(unsent).await != 0 {
            books.wrong.push("the outbox is not empty".to_owned());
        }
        let audit = world.look_at_the_books().await;
        if !audit.clean {
            books
                .wrong
                .push(format!("{:?}", audit.checks.iter().filter(|check| check.violations > 0).collect::<Vec<_>>()));
        }
        books.timers = world.number("select count(*) from timers where state = 'fired'").await as u64;
        if count(world, armed).await != Some(0) {
            books.wrong.push("timers are armed still".to_owned());
        }
        let facts = books.facts();
        books.events = heard(world, facts).await;
        if books.events != facts {
            books.wrong.push(format!("{} events for {facts} facts", books.events));
        }
        books
    }
}

/// Of the shop's own orders: neighbours have other SKUs.
const LATE_MAX: &str = "select coalesce(max(extract(epoch from o.closed_at - o.payment_deadline)), 0)::float8
    from orders o join order_items i on i.order_id = o.id where o.status = 'closed' and i.sku_id = 'tea'";

async fn count(world: &World, query: &'static str) -> Option<i64> {
    sqlx::query_scalar(query).fetch_one(&world.pool).await.ok()
}

async fn trade(world: Arc<World>, stop: CancellationToken, known: Arc<Mutex<HashMap<OrderId, Did>>>) {
    let note = |id: &OrderId, did| known.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), did);
    let mut foreign = Publisher::new(world.broker(), "foreign", Duration::from_secs(1));
    let lanes = Lanes::standard(&["2s".parse().expect("a lane"), "3s".parse().expect("a lane")]);
    for number in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let timeout = Duration::from_secs(2 + number % 2);
        let new = NewOrder { payment_timeout: timeout, ..world.new_order(&[("tea", 1)], timeout) };
        let id = new.id.clone();
        let created = bounded(world.create(&new)).await;
        note(&id, if created == Some(true) { Did::Nothing } else { Did::Unclear });
        // With each a reminder, which one customer in seven does not want.
        let _ = bounded(remind(&world, &id, number % 7 == 0)).await;
        if created == Some(true) {
            match number % 6 {
                0 | 1 => note_outcome(bounded(world.pay(&id, None)).await, &id, Did::Paid, &note),
                2 => note_outcome(bounded(world.cancel(&id)).await, &id, Did::Cancelled, &note),
                // Somebody else publishes it as well, twice.
                3 if number % 4 == 3 => {
                    let hop = lanes.choose(timeout);
                    let message = Outgoing::bare_timeout(order::TimeoutKind::Payment, &id, hop, order::Shard::FIRST);
                    let _ = foreign.publish(&[message.clone(), message]).await;
                }
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    foreign.close().await;
}

async fn remind(world: &World, id: &OrderId, is_unwanted: bool) -> Result<(), OrderError> {
    let timer = TimerId::new("remind", id.as_str()).expect("a timer's name");
    let mut connection = world.pool.acquire().await?;
    outbox::arm_timer(&mut connection, &timer, TimerDue::After(Duration::from_secs(1)), None).await?;
    if is_unwanted {
        outbox::cancel_timer(&mut connection, &timer).await?;
    }
    Ok(())
}

/// Whether it was done; `None`: nobody knows.
async fn bounded<T>(deed: impl Future<Output = Result<T, OrderError>>) -> Option<bool> {
    match tokio::time::timeout(Duration::from_secs(5), deed).await {
        Ok(Ok(_)) => Some(true),
        Err(_) | Ok(Err(OrderError::Database(_))) => None,
        Ok(Err(_)) => Some(false),
    }
}

fn note_outcome(done: Option<bool>, id: &OrderId, did: Did, note: &impl Fn(&OrderId, Did) -> Option<Did>) {
    match done {
        Some(true) => note(id, did),
        // Too late, most likely: then it must close.
        Some(false) => note(id, Did::Nothing),
        None => note(id, Did::Unclear),
    };
}

/// Declares and binds a queue for all events, as a subscriber does each time that it connects.
pub(crate) async fn listen(world: &World) {
    let foreign = world.foreign().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    foreign.channel.queue_declare(LISTENER.into(), options, arguments).await.expect("the listener's queue");
    let exchange = "overdue.events".into();
    let bound = foreign.channel.queue_bind(
        LISTENER.into(),
        exchange,
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("bound");
}

/// How many different events there are in the queue.
async fn heard(world: &World, wanted: u64) -> u64 {
    let foreign = world.foreign().await;
    let mut ids = std::collections::HashSet::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < deadline {
        let got =
            foreign.channel.basic_get(LISTENER.into(), BasicGetOptions { no_ack: true }).await.expect("basic.get");
        match got {
            Some(message) => {
                let event: Value = serde_json::from_slice(&message.delivery.data).expect("an event");
                ids.insert(event["id"].to_string());
            }
            None if ids.len() as u64 >= wanted => break,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    ids.len() as u64
}
