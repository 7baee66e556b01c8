//! The lead of the sweep: which process sweeps.

use std::time::Duration;

use database::{Client, ClientWrapper};
use tokio::time::timeout;

use crate::BookError;
use crate::postgres::one;

/// The right to sweep. It is an advisory lock of the database, held by a connection of its own. It ends with that
/// connection, so that another process can take it up.
pub struct Lead {
    connection: ClientWrapper,
    answer_timeout: Duration,
}

/// The key of the advisory lock: `overdue!` in ASCII. Other users of advisory locks in the same database must not use it.
const LOCK: i64 = 0x6f76_6572_6475_6521;

impl Lead {
    /// Takes the lead, unless another process has it.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn take(client: &Client) -> Result<Option<Self>, BookError> {
        // Out of the pool for good: handed back, the connection would keep the lock and serve others.
        let lead = Self { connection: client.take().await?, answer_timeout: client.answer_timeout() };
        let taken = lead.ask("select pg_try_advisory_lock($1)", &[&LOCK]).await?;
        Ok(taken.then_some(lead))
    }

    /// Makes sure that the connection still holds the lead.
    ///
    /// # Errors
    /// [`BookError`]: the lead is lost.
    pub async fn check(&self) -> Result<(), BookError> {
        let (high, low) = halves();
        let held = format!("select exists (select from ({HOLDERS}) holder where pid = pg_backend_pid())");
        match self.ask(&held, &[&high, &low]).await? {
            true => Ok(()),
            false => Err(BookError::Away("the connection does not hold the lead of the sweep".to_owned())),
        }
    }

    async fn ask(
        &self,
        statement: &str,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<bool, BookError> {
        let answer = timeout(self.answer_timeout, self.connection.query_one(statement, arguments)).await;
        let silent = || BookError::Away(format!("no answer within {} ms", self.answer_timeout.as_millis()));
        Ok(answer.map_err(|_| silent())??.try_get(0)?)
    }
}

/// Whether any process has the lead.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn is_led(client: &Client) -> Result<bool, BookError> {
    let (high, low) = halves();
    one(client, &format!("select exists ({HOLDERS})"), &[&high, &low]).await
}

/// Who holds the lock; its halves are the parameters. A lock of two keys has the same halves and is another.
pub(crate) const HOLDERS: &str = "select pid from pg_locks
    where locktype = 'advisory' and granted and classid::bigint = $1 and objid::bigint = $2 and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())";

/// The key as `pg_locks` shows it.
pub(crate) fn halves() -> (i64, i64) {
    (LOCK >> 32, LOCK & 0xffff_ffff)
}
