//! Statements under the locks of the orders that they change.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use database::{Client, ClientWrapper};
use futures_util::FutureExt;
use futures_util::future::{join, join4};
use order::OrderId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::error::{Failure, is_bad};
use crate::ItemReply;

/// The arguments of a statement, each an array with a value for each order, or a single value.
pub(super) type Columns<'a> = Vec<Box<dyn ToSql + Sync + Send + 'a>>;

/// Rows of those orders that were free, and the others.
pub(super) type Done = (Vec<Row>, Vec<OrderId>);

/// Runs statements in transactions that hold the locks of the orders that they are about: each begins after every transaction
/// that had one of them before, and sees what they left. No wait is long: orders that another transaction holds, or whose stock
/// it holds, are left out soon, and the others go on without them.
pub(super) struct UnderLock {
    client: Client,
    /// Rows that somebody holds for long, and when that was found out.
    held: Mutex<HashMap<HeldRow, Instant>>,
    /// How often in a row single orders took too long. Each time doubles what a call may take.
    slow: AtomicU32,
}

/// A row that another transaction holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum HeldRow {
    Order(String),
    Stock(String),
}

/// What a call does with each part of its work.
struct Call<'a, W, C> {
    id: fn(&W) -> &OrderId,
    statement: &'a str,
    /// The arguments of the statement for some of the work.
    columns: C,
    /// How long it may take.
    limit: Duration,
}

const LOCK: &str = include_str!("lock.sql");

/// As [`LOCK`], but rows that another transaction holds are left out.
const LOOK: &str = concat!(include_str!("lock.sql"), " skip locked");

const HELD_STOCK: &str = include_str!("stock_held.sql");

/// A commit is not bounded by what the call may take: given up, it would leave open whether a standby has it.
const COMMIT: &str = "set local statement_timeout = 0; commit";

/// How long locks are waited for that were free a moment ago.
const SHORT: Duration = Duration::from_millis(100);

/// A row that is held at each look for so long is held for long. Others who settle orders of the same SKU hold it for some
/// milliseconds.
const LOOK_FOR: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// For how long a row that was held for long is not waited for. Then it is looked at for long again.
const NOT_WAITED_FOR: Duration = Duration::from_secs(5);

/// What a call may take, and what each of its orders adds to that. A batch takes a tenth of this where all is well.
const CALL_MAX: Duration = Duration::from_millis(500);
const ORDER_MAX: Duration = Duration::from_millis(1);

impl UnderLock {
    pub(super) fn new(client: Client) -> Self {
        Self { client, held: Mutex::default(), slow: AtomicU32::new(0) }
    }

    /// Runs a statement about these orders.
    pub(super) async fn run<W: Clone>(
        &self,
        work: &[W],
        id: fn(&W) -> &OrderId,
        statement: &str,
        columns: impl Fn(&[W]) -> Columns<'_>,
    ) -> Result<Done, Failure> {
        if work.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let call = Call { id, statement, columns, limit: self.limit(work.len()) };
        let known = self.known();
        let mut done = Err(Failure::Locked(String::new()));
        if known.is_empty() {
            done = self.all(work, &call).await;
        }
        if matches!(done, Err(Failure::Locked(_))) {
            done = self.free_ones(work, &call, &known).await;
        }
        match &done {
            Ok((_, held)) if held.len() < work.len() => self.was_quick(),
            Err(Failure::Slow(_)) if work.len() == 1 => drop(self.slow.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        done
    }

    /// Whether a statement can be run at all, as far as that does not depend on orders: whether everything is there that it
    /// names, and may be used.
    pub(super) async fn try_out(&self, statement: &str, columns: &Columns<'_>) -> Result<(), Failure> {
        let tried = self.client.within(is_bad, async |client| {
            let lock = client.prepare_cached(LOCK).await?;
            let statement = client.prepare_cached(statement).await?;
            let transaction = client.transaction().await?;
            transaction.execute(&lock, &[&Vec::<&str>::new()]).await?;
            transaction.query(&statement, &arguments(columns)).await?;
            transaction.rollback().await
        });
        tried.await.map_err(Failure::from)
    }

    /// Waits for each lock as long as the session does, which suffices for another batch that settles orders of the same SKU.
    async fn all<W, C: Fn(&[W]) -> Columns<'_>>(&self, work: &[W], call: &Call<'_, W, C>) -> Result<Done, Failure> {
        let (ids, columns) = (call.ids(work), (call.columns)(work));
        let rows = self.client.within(is_bad, async |client| {
            let lock = client.prepare_cached(LOCK).await?;
            let statement = client.prepare_cached(call.statement).await?;
            let transaction = Sent { client, is_over: false };
            let (begin, arguments) = (begin(call.limit, None), arguments(&columns));
            let (begun, locked, rows, committed) = join4(
                client.batch_execute(&begin),
                client.execute(&lock, &[&ids]),
                client.query(&statement, &arguments),
                client.batch_execute(COMMIT),
            )
            .await;
            // After the first of them that fails, the server refuses the others: the first says why.
            begun?;
            locked?;
            let rows = rows?;
            committed?;
            transaction.over();
            Ok(rows)
        });
        Ok((rows.await?, Vec::new()))
    }

    /// As [`UnderLock::all`], without those of which another transaction holds something. They are looked at again and again
    /// for a short while, unless what is held is `known` to be held for long.
    async fn free_ones<W: Clone, C: Fn(&[W]) -> Columns<'_>>(
        &self,
        work: &[W],
        call: &Call<'_, W, C>,
        known: &HashSet<HeldRow>,
    ) -> Result<Done, Failure> {
        let until = Instant::now() + LOOK_FOR;
        let (mut rows, mut left) = (Vec::new(), work.to_vec());
        loop {
            let (more, held, by) = self.free_now(&left, call).await?;
            rows.extend(more);
            left = held;
            if left.is_empty() || by.iter().all(|row| known.contains(row)) {
                break;
            }
            if Instant::now() >= until {
                self.remember(by);
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok((rows, left.iter().map(|part| (call.id)(part).clone()).collect()))
    }

    /// Does the work of those that are free at this moment. Returns the rows, the others, and what another transaction holds of
    /// them.
    async fn free_now<W: Clone, C: Fn(&[W]) -> Columns<'_>>(
        &self,
        work: &[W],
        call: &Call<'_, W, C>,
    ) -> Result<(Vec<Row>, Vec<W>, HashSet<HeldRow>), Failure> {
        let wanted = call.ids(work);
        let (mut held, mut by) = (Vec::new(), HashSet::new());
        // Nothing is free where the tables themselves are locked.
        let mut looked = false;
        let rows = self.client.within(is_bad, async |client| {
            let look = client.prepare_cached(LOOK).await?;
            let look_at_stock = client.prepare_cached(HELD_STOCK).await?;
            let statement = client.prepare_cached(call.statement).await?;
            let transaction = Sent { client, is_over: false };
            let begin = begin(call.limit, Some(SHORT));
            let (begun, free) = join(client.batch_execute(&begin), client.query(&look, &[&wanted])).await;
            begun?;
            let free: Result<HashSet<String>, Error> = free?.iter().map(|row| row.try_get("id")).collect();
            let mut free = free?;
            let in_hand = |id: &&&str| !free.contains(**id);
            by.extend(wanted.iter().filter(in_hand).map(|id| HeldRow::Order((*id).to_owned())));
            let ids: Vec<&str> = free.iter().map(String::as_str).collect();
            for row in client.query(&look_at_stock, &[&ids]).await? {
                free.remove(row.try_get::<_, &str>("id")?);
                by.insert(HeldRow::Stock(row.try_get("sku_id")?));
            }
            looked = true;
            let (free, others): (Vec<W>, Vec<W>) =
                work.iter().cloned().partition(|part| free.contains((call.id)(part).as_str()));
            held = others;
            if free.is_empty() {
                return Ok(Vec::new());
            }
            let columns = (call.columns)(&free);
            let arguments = arguments(&columns);
            let (rows, committed) = join(client.query(&statement, &arguments), client.batch_execute(COMMIT)).await;
            let rows = rows?;
            committed?;
            transaction.over();
            Ok(rows)
        });
        match rows.await.map_err(Failure::from) {
            Err(Failure::Locked(text)) if !looked => Err(Failure::Busy(text)),
            rows => Ok((rows?, held, by)),
        }
    }

    fn limit(&self, orders: usize) -> Duration {
        let doublings = self.slow.load(Ordering::Relaxed).min(8);
        let orders = u32::try_from(orders).unwrap_or(u32::MAX);
        ((CALL_MAX + ORDER_MAX * orders) * 2u32.pow(doublings)).min(self.client.statement_timeout())
    }

    fn was_quick(&self) {
        let less = |slow: u32| Some(slow.saturating_sub(1));
        let _ = self.slow.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn remember(&self, rows: HashSet<HeldRow>) {
        let now = Instant::now();
        self.held().extend(rows.into_iter().map(|row| (row, now)));
    }

    /// What is held for long, as far as that was found out a short while ago.
    fn known(&self) -> HashSet<HeldRow> {
        let mut held = self.held();
        held.retain(|_, at| at.elapsed() < NOT_WAITED_FOR);
        held.keys().cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<HeldRow, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W, C> Call<'_, W, C> {
    fn ids<'w>(&self, work: &'w [W]) -> Vec<&'w str> {
        work.iter().map(|part| (self.id)(part).as_str()).collect()
    }
}

/// A transaction whose statements go to the server together: one wait for all of them, and not one for each. It is rolled back
/// unless it is over.
struct Sent<'c> {
    client: &'c ClientWrapper,
    is_over: bool,
}

impl Sent<'_> {
    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Sent with the first poll. Nobody waits for the answer: what comes next on the connection comes after it.
            drop(self.client.batch_execute("rollback").now_or_never());
        }
    }
}

/// Begins a transaction whose statements are bounded like this.
fn begin(statement_timeout: Duration, lock_timeout: Option<Duration>) -> String {
    let begin = format!("begin; set local statement_timeout = {}", statement_timeout.as_millis());
    match lock_timeout {
        Some(limit) => format!("{begin}; set local lock_timeout = {}", limit.as_millis()),
        None => begin,
    }
}

fn arguments<'a>(columns: &'a Columns<'_>) -> Vec<&'a (dyn ToSql + Sync)> {
    columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect()
}

/// Another transaction holds the order, or stock that it reserves.
pub(super) fn locked<T>() -> ItemReply<T> {
    ItemReply::Locked("another transaction holds it, or stock of it, locked".to_owned())
}
