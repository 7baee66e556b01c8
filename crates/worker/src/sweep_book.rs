//! What the sweep asks of the database.

use std::time::Duration;

use order::OrderId;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use crate::book::judge;
use crate::{BookError, OrderBook};

/// The right to sweep. It is an advisory lock of the database, held by a connection: it ends with that connection, so
/// that another process can take it up.
pub(crate) struct Lead {
    connection: deadpool_postgres::ClientWrapper,
    answer_timeout: Duration,
}

/// The last row of a page: its deadline and its ID, whatever that is.
pub(crate) type Bookmark = (OffsetDateTime, String);

/// The key of the advisory lock. Whoever uses advisory locks in the same database must not use this one: `overdue!` in
/// ASCII.
const LOCK: i64 = 0x6f76_6572_6475_6521;

/// How long answers to HTTP requests are kept for whoever asks the same again.
const REQUESTS_KEPT: &str = "24 hours";

/// How many of them are deleted at a time.
const REQUESTS_DELETED_MAX: i64 = 10_000;

impl OrderBook {
    /// Takes the lead of the sweep, unless another process has it.
    pub(crate) async fn lead(&self) -> Result<Option<Lead>, BookError> {
        // Out of the pool for good: handed back, it would keep the lock and serve somebody else.
        let connection = self.take_connection().await?;
        let mut lead = Lead { connection, answer_timeout: self.answer_timeout() };
        let rows = lead.query("select pg_try_advisory_lock($1)", &[&LOCK]).await?;
        let taken = rows.first().is_some_and(|row| row.get(0));
        Ok(taken.then_some(lead))
    }
}

impl Lead {
    /// A page of orders that are pending although their deadline has passed by more than the grace, in the order of
    /// their deadlines; and where the next page begins, if this one may not be the last.
    pub(crate) async fn overdue(
        &mut self,
        grace: Duration,
        after: Option<&Bookmark>,
        count_max: usize,
    ) -> Result<(Vec<OrderId>, Option<Bookmark>), BookError> {
        // Before all that there is, if there is no page before.
        let (deadline, id) = after.map_or((OffsetDateTime::UNIX_EPOCH, ""), |(at, id)| (*at, id.as_str()));
        let (grace, count_max) = (grace.as_secs_f64(), i64::try_from(count_max).unwrap_or(i64::MAX));
        let rows = self
            .query(
                "select payment_deadline, id from orders
                 where status = 'pending' and payment_deadline < statement_timestamp() - $1 * interval '1 second'
                   and (payment_deadline, id) > ($2, $3)
                 order by payment_deadline, id limit $4",
                &[&grace, &deadline, &id, &count_max],
            )
            .await?;
        let bookmark = |row: &Row| Ok::<_, Error>((row.try_get("payment_deadline")?, row.try_get("id")?));
        let next =
            if rows.len() as i64 == count_max { rows.last().map(bookmark).transpose().map_err(judge)? } else { None };
        let ids = rows.iter().map(|row| row.try_get("id").map(OrderId::new).map_err(judge));
        // What is no ID of ours cannot be settled by us.
        let ids = ids.filter_map(|id| id.map(Result::ok).transpose()).collect::<Result<Vec<OrderId>, BookError>>()?;
        Ok((ids, next))
    }

    /// Deletes answers to HTTP requests that nobody asks for any more.
    pub(crate) async fn tidy_up(&mut self) -> Result<(), BookError> {
        let old = format!(
            "delete from api_requests where key = any(array(
                 select key from api_requests where created_at < clock_timestamp() - interval '{REQUESTS_KEPT}' limit $1))"
        );
        self.query(&old, &[&REQUESTS_DELETED_MAX]).await.map(drop)
    }

    async fn query(&mut self, statement: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, BookError> {
        let answer = async {
            let statement = self.connection.prepare_cached(statement).await?;
            self.connection.query(&statement, arguments).await
        };
        match tokio::time::timeout(self.answer_timeout, answer).await {
            Ok(answer) => answer.map_err(judge),
            Err(_) => Err(BookError::Away(format!("no answer within {} ms", self.answer_timeout.as_millis()))),
        }
    }
}
