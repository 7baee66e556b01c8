//! Statements under the locks of the orders that they change.

use std::collections::HashSet;

use database::Client;
use order::OrderId;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::{Failure, is_bad};

/// The arguments of a statement, each an array with a value for each order, or a single value.
pub(super) type Columns<'a> = Vec<Box<dyn ToSql + Sync + Send + 'a>>;

const LOCK: &str = include_str!("lock.sql");

/// As [`LOCK`], but rows that another transaction holds are left out.
const LOOK: &str = concat!(include_str!("lock.sql"), " skip locked");

/// Runs a statement in a transaction that holds the locks of these orders: it begins after every transaction that had one
/// of them before, and sees what they left. Orders that another transaction holds for longer than the session waits are
/// left out and returned; the others go on without them.
pub(super) async fn run<'a, W: Clone>(
    client: &Client,
    work: &'a [W],
    id: fn(&W) -> &OrderId,
    statement: &str,
    columns: impl Fn(&[W]) -> Columns<'_>,
) -> Result<(Vec<Row>, Vec<OrderId>), Failure> {
    if work.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let ids = |work: &'a [W]| -> Vec<&'a str> { work.iter().map(|part| id(part).as_str()).collect() };
    let under_lock = async |ids: &[&str], columns: &Columns<'_>| {
        let arguments: Vec<&(dyn ToSql + Sync)> =
            columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
        let rows = client.within(is_bad, async |client| {
            let lock = client.prepare_cached(LOCK).await?;
            let statement = client.prepare_cached(statement).await?;
            let transaction = client.transaction().await?;
            transaction.execute(&lock, &[&ids]).await?;
            let rows = transaction.query(&statement, &arguments).await?;
            transaction.commit().await?;
            Ok(rows)
        });
        rows.await.map_err(Failure::from)
    };
    match under_lock(&ids(work), &columns(work)).await {
        Err(Failure::Locked(_)) => {}
        rows => return Ok((rows?, Vec::new())),
    }
    let wanted = ids(work);
    let free = client.within(is_bad, async |client| {
        let look = client.prepare_cached(LOOK).await?;
        let transaction = client.transaction().await?;
        let rows = transaction.query(&look, &[&wanted]).await?;
        transaction.rollback().await?;
        rows.iter().map(|row| row.try_get::<_, String>("id")).collect::<Result<HashSet<String>, _>>()
    });
    let free = free.await?;
    let (free, held): (Vec<W>, Vec<W>) = work.iter().cloned().partition(|part| free.contains(id(part).as_str()));
    let locked = held.iter().map(|part| id(part).clone()).collect();
    if free.is_empty() {
        return Ok((Vec::new(), locked));
    }
    let free_ids: Vec<&str> = free.iter().map(|part| id(part).as_str()).collect();
    Ok((under_lock(&free_ids, &columns(&free)).await?, locked))
}
