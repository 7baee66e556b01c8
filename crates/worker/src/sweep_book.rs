//! What the sweep asks of the database.

use std::time::Duration;

use order::{Deadline, OrderId};
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

    /// Has these orders looked at once more, at that time: by a message, so by way of the outbox.
    pub(crate) async fn arm(&self, orders: &[(OrderId, OffsetDateTime)]) -> Result<(), BookError> {
        if orders.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = orders.iter().map(|(id, _)| id.as_str()).collect();
        let times: Vec<OffsetDateTime> = orders.iter().map(|(_, at)| *at).collect();
        self.with_client(async |client| {
            let arm = "insert into outbox (order_id, due_at) select * from unnest($1::text[], $2::timestamptz[])";
            let arm = client.prepare_cached(arm).await?;
            client.execute(&arm, &[&ids, &times]).await
        })
        .await
        .map(drop)
    }
}

impl Lead {
    /// A page of orders that are pending although their deadline has passed by more than the grace, in the order of
    /// their deadlines.
    pub(crate) async fn overdue(
        &mut self,
        grace: Duration,
        after: Option<&(Deadline, OrderId)>,
        count_max: usize,
    ) -> Result<Vec<(Deadline, OrderId)>, BookError> {
        // Before all that there is, if there is no page before.
        let (deadline, id) = after.map_or((OffsetDateTime::UNIX_EPOCH, ""), |(at, id)| (at.instant(), id.as_str()));
        let (grace, count_max) = (grace.as_secs_f64(), i64::try_from(count_max).unwrap_or(i64::MAX));
        let rows = self
            .query(
                "select payment_deadline, id from orders
                 where status = 'pending' and payment_deadline < clock_timestamp() - $1 * interval '1 second'
                   and (payment_deadline, id) > ($2, $3)
                 order by payment_deadline, id limit $4",
                &[&grace, &deadline, &id, &count_max],
            )
            .await?;
        let order = |row: &Row| -> Result<Option<(Deadline, OrderId)>, Error> {
            let id = OrderId::new(row.try_get("id")?).ok();
            let deadline = Deadline::at(row.try_get("payment_deadline")?);
            Ok(id.map(|id| (deadline, id)))
        };
        rows.iter().filter_map(|row| order(row).map_err(judge).transpose()).collect()
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
