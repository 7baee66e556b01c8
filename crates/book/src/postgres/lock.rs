//! Statements under the locks of the orders that they change.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use database::{Client, Transaction};
use futures_util::future::join;
use order::OrderId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

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
    /// When a row was last found locked for long. For a while after that nothing is waited for.
    held_at: Mutex<Option<Instant>>,
    /// How often in a row single orders took too long. Each time doubles what a call may take.
    slow: AtomicU32,
}

const LOCK: &str = include_str!("lock.sql");

/// As [`LOCK`], but rows that another transaction holds are left out.
const LOOK: &str = concat!(include_str!("lock.sql"), " skip locked");

const HELD_STOCK: &str = include_str!("stock_held.sql");

/// How long locks are waited for where nothing else is.
const LONGER: Duration = Duration::from_secs(2);

/// How long locks are waited for that nobody else is known to hold.
const SHORT: Duration = Duration::from_millis(100);

/// For how long nothing is waited for, after a row was found locked for long.
const IMPATIENT_FOR: Duration = Duration::from_secs(5);

/// What a call may take, and what each of its orders adds to that. A batch takes a tenth of this where all is well.
const CALL_MAX: Duration = Duration::from_millis(500);
const ORDER_MAX: Duration = Duration::from_millis(1);

impl UnderLock {
    pub(super) fn new(client: Client) -> Self {
        Self { client, held_at: Mutex::new(None), slow: AtomicU32::new(0) }
    }

    /// Runs a statement about these orders.
    pub(super) async fn run<'a, W: Clone>(
        &self,
        work: &'a [W],
        id: fn(&W) -> &OrderId,
        statement: &str,
        columns: impl Fn(&[W]) -> Columns<'_>,
    ) -> Result<Done, Failure> {
        if work.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let ids = |work: &'a [W]| -> Vec<&'a str> { work.iter().map(|part| id(part).as_str()).collect() };
        let limit = self.limit(work.len());
        let mut done = Err(Failure::Locked(String::new()));
        if !self.is_impatient() {
            done = self.all(&ids(work), statement, &columns(work), limit, None).await;
        }
        if matches!(done, Err(Failure::Locked(_))) {
            done = self.free_ones(work, id, statement, &columns, limit).await;
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

    /// Waits for each lock as long as the session does, which suffices for another batch that settles orders of the same SKU; or
    /// for this long.
    async fn all(
        &self,
        ids: &[&str],
        statement: &str,
        columns: &Columns<'_>,
        limit: Duration,
        lock_timeout: Option<Duration>,
    ) -> Result<Done, Failure> {
        let rows = self.client.within(is_bad, async |client| {
            let lock = client.prepare_cached(LOCK).await?;
            let statement = client.prepare_cached(statement).await?;
            let transaction = client.transaction().await?;
            let bounds = bounds(limit, lock_timeout);
            let (bounded, locked) = join(transaction.batch_execute(&bounds), transaction.execute(&lock, &[&ids])).await;
            bounded?;
            locked?;
            finish(transaction, &statement, columns).await
        });
        Ok((rows.await?, Vec::new()))
    }

    /// As [`UnderLock::all`], without those of which another transaction holds something.
    async fn free_ones<W: Clone>(
        &self,
        work: &[W],
        id: fn(&W) -> &OrderId,
        statement: &str,
        columns: &impl Fn(&[W]) -> Columns<'_>,
        limit: Duration,
    ) -> Result<Done, Failure> {
        let wanted: Vec<&str> = work.iter().map(|part| id(part).as_str()).collect();
        let mut held = Vec::new();
        // Nothing is free where the tables themselves are locked.
        let mut looked = false;
        let rows = self.client.within(is_bad, async |client| {
            let look = client.prepare_cached(LOOK).await?;
            let look_at_stock = client.prepare_cached(HELD_STOCK).await?;
            let statement = client.prepare_cached(statement).await?;
            let transaction = client.transaction().await?;
            let bounds = bounds(limit, Some(SHORT));
            let (bounded, free) = join(transaction.batch_execute(&bounds), transaction.query(&look, &[&wanted])).await;
            bounded?;
            let mut free = set_of_ids(&free?)?;
            let ids: Vec<&str> = free.iter().map(String::as_str).collect();
            let without_stock = set_of_ids(&transaction.query(&look_at_stock, &[&ids]).await?)?;
            free.retain(|id| !without_stock.contains(id));
            looked = true;
            let (free, others): (Vec<W>, Vec<W>) =
                work.iter().cloned().partition(|part| free.contains(id(part).as_str()));
            held = others.iter().map(|part| id(part).clone()).collect();
            if free.is_empty() {
                transaction.rollback().await?;
                return Ok(Vec::new());
            }
            finish(transaction, &statement, &columns(&free)).await
        });
        let rows = match rows.await.map_err(Failure::from) {
            Err(Failure::Locked(text)) if !looked => return Err(Failure::Busy(text)),
            rows => rows?,
        };
        if held.is_empty() {
            return Ok((rows, held));
        }
        let was_impatient = self.is_impatient();
        self.held();
        if held.len() == work.len() && !was_impatient {
            // No other order suffers from a longer wait.
            return match self.all(&wanted, statement, &columns(work), limit + LONGER, Some(LONGER)).await {
                Err(Failure::Locked(_)) => Ok((Vec::new(), held)),
                done => done,
            };
        }
        Ok((rows, held))
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

    fn held(&self) {
        *self.held_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_impatient(&self) -> bool {
        let held_at = *self.held_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held_at.is_some_and(|at| at.elapsed() < IMPATIENT_FOR)
    }
}

/// Runs the statement and commits. A commit is not bounded by what the call may take: given up, it would leave open whether a
/// standby has it.
async fn finish(transaction: Transaction<'_>, statement: &Statement, columns: &Columns<'_>) -> Result<Vec<Row>, Error> {
    let arguments = arguments(columns);
    let query = transaction.query(statement, &arguments);
    let (rows, unbounded) = join(query, transaction.batch_execute("set local statement_timeout = 0")).await;
    let rows = rows?;
    unbounded?;
    transaction.commit().await?;
    Ok(rows)
}

fn bounds(statement_timeout: Duration, lock_timeout: Option<Duration>) -> String {
    let bounds = format!("set local statement_timeout = {}", statement_timeout.as_millis());
    match lock_timeout {
        Some(limit) => format!("{bounds}; set local lock_timeout = {}", limit.as_millis()),
        None => bounds,
    }
}

fn arguments<'a>(columns: &'a Columns<'_>) -> Vec<&'a (dyn ToSql + Sync)> {
    columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect()
}

fn set_of_ids(rows: &[Row]) -> Result<HashSet<String>, Error> {
    rows.iter().map(|row| row.try_get("id")).collect()
}

/// Another transaction holds the order, or stock that it reserves.
pub(super) fn locked<T>() -> ItemReply<T> {
    ItemReply::Locked("another transaction holds it, or stock of it, locked".to_owned())
}
