//! The table of messages that were set aside for a person.

use std::time::Duration;

use database::Client;
use order::ParkReason;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::BookError;
use crate::parked_filter::{CHOSEN, ParkedFilter, ParkedState};
use crate::parking::{Parking, add_one};
use crate::postgres::is_bad;

/// The table of parked messages in a database.
#[derive(Clone)]
pub struct ParkedTable {
    pub(crate) client: Client,
}

/// A message in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    /// Its number in the table.
    pub id: i64,
    /// The message.
    pub parking: Parking,
    /// How often it came. [`Parking::at`] is when it first came.
    pub times: i64,
    /// When it last came.
    pub last_at: OffsetDateTime,
    /// `held`, `requeued` or `dropped`.
    pub state: String,
    /// Why it was dropped, where no person has dropped it.
    pub note: Option<String>,
    /// When it was sent in again, or dropped.
    pub changed_at: Option<OffsetDateTime>,
    /// Who did that.
    pub changed_by: Option<String>,
}

/// Messages that are held for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedGroup {
    /// The reason.
    pub reason: String,
    /// How many messages.
    pub messages: i64,
    /// When the first of them came.
    pub first_at: OffsetDateTime,
    /// When the last of them came.
    pub last_at: OffsetDateTime,
    /// The detail of the last.
    pub detail: Option<String>,
    /// The number of the last.
    pub last_id: i64,
}

/// For how long a message that was dropped can be had back.
pub const KEPT_FOR: Duration = Duration::from_hours(24);

/// How long a message that is to be added waits for others.
const LOCK_TIMEOUT: &str = "10s";

pub(crate) const COLUMNS: &str =
    "id, reason, detail, orders, routing_key, properties::text as properties, headers::text as headers, body,
    attempts, history, times, first_at, last_at, state, note, changed_at, changed_by";

impl ParkedTable {
    /// The table in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Whether it is there and may be written to. A message that nobody has sent is added, and taken back.
    ///
    /// # Errors
    /// [`BookError`]: it is not.
    pub async fn ready(&self) -> Result<(), BookError> {
        let nothing = Parking {
            reason: String::new(),
            detail: None,
            orders: Vec::new(),
            routing_key: String::new(),
            properties: Map::new(),
            headers: Map::new(),
            body: Vec::new(),
            attempts: 0,
            history: Vec::new(),
            at: OffsetDateTime::UNIX_EPOCH,
        };
        let tried = self.client.within(is_bad, async |client| {
            let add = client.prepare_cached(include_str!("parked.sql")).await?;
            let transaction = client.transaction().await?;
            add_one(&transaction, &add, &nothing).await?;
            transaction.rollback().await
        });
        Ok(tried.await?)
    }

    /// Adds messages, all or none. The same message again only counts. It may have to wait for a moment: messages are
    /// added in turn, and one that comes again while it is being sent in waits until that is done.
    ///
    /// # Errors
    /// [`BookError`]: none was added, or it is not known.
    pub async fn add(&self, parkings: &[Parking]) -> Result<(), BookError> {
        let added = self.client.within(is_bad, async |client| {
            let add = client.prepare_cached(include_str!("parked.sql")).await?;
            let transaction = client.transaction().await?;
            transaction.batch_execute(&format!("set local lock_timeout = '{LOCK_TIMEOUT}'")).await?;
            for parking in parkings {
                add_one(&transaction, &add, parking).await?;
            }
            transaction.commit().await
        });
        Ok(added.await?)
    }

    /// What is held, by reason, the most first.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn groups(&self) -> Result<Vec<ParkedGroup>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            let groups = "select reason, count(*) as messages, min(first_at) as first_at, max(last_at) as last_at,
                              (array_agg(detail order by last_at desc))[1] as detail, max(id) as last_id
                          from parked where state = 'held' group by reason order by messages desc, reason";
            client.query(groups, &[]).await
        });
        rows.await?.iter().map(group).collect()
    }

    /// As [`ParkedTable::groups`], in the order of the reasons, and each counted up to a bound: of a group that has
    /// more than `count_max`, one more is told. The times are those of the message that was parked first, and last.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn groups_up_to(&self, count_max: i64) -> Result<Vec<ParkedGroup>, BookError> {
        let bound = count_max.saturating_add(1);
        let rows = self.client.within(is_bad, async |client| {
            let groups = client.prepare_cached(include_str!("parked_groups.sql")).await?;
            client.query(&groups, &[&bound]).await
        });
        rows.await?.iter().map(group).collect()
    }

    /// The messages that are chosen and in this state, with all that there is of them, in the order of their numbers:
    /// those after the first number of the range, up to its last, at most `count_max`.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn page(
        &self,
        filter: &ParkedFilter,
        state: ParkedState,
        range: (i64, i64),
        count_max: i64,
    ) -> Result<Vec<ParkedRow>, BookError> {
        self.chosen(COLUMNS, filter, state, range, count_max).await?.iter().map(parked_row).collect()
    }

    /// How many messages are chosen and in this state, and the number of the last of them.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn count(&self, filter: &ParkedFilter, state: ParkedState) -> Result<(i64, i64), BookError> {
        let (ages, state) = (filter.ages(), state.as_str());
        let row = self.client.within(is_bad, async |client| {
            let count = format!("select count(*), coalesce(max(id), 0) from parked where {CHOSEN}");
            client.query_one(&count, &filter.values(&ages, &state)).await
        });
        let row = row.await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// How many messages up to the number `until` are chosen and in this state; no more than `count_max` are counted.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn count_up_to(
        &self,
        filter: &ParkedFilter,
        state: ParkedState,
        until: i64,
        count_max: i64,
    ) -> Result<i64, BookError> {
        let (ages, state) = (filter.ages(), state.as_str());
        let row = self.client.within(is_bad, async |client| {
            let count =
                format!("select count(*) from (select from parked where {CHOSEN} and id <= $10 limit $11) chosen");
            let mut values = filter.values(&ages, &state);
            values.extend([&until as &(dyn ToSql + Sync), &count_max]);
            client.query_one(&count, &values).await
        });
        Ok(row.await?.try_get(0)?)
    }

    /// One message, in whatever state.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn get(&self, id: i64) -> Result<Option<ParkedRow>, BookError> {
        let row = self.client.within(is_bad, async |client| {
            client.query_opt(&format!("select {COLUMNS} from parked where id = $1"), &[&id]).await
        });
        row.await?.as_ref().map(parked_row).transpose()
    }

    /// Moves messages from one state to another, and says how many there were. `by` is who does it.
    ///
    /// # Errors
    /// [`BookError`]: none was moved, or it is not known.
    pub async fn change(
        &self,
        ids: &[i64],
        (from, to): (ParkedState, ParkedState),
        by: &str,
    ) -> Result<u64, BookError> {
        let changed = self.client.within(is_bad, async |client| {
            // What has come again meanwhile has a row of its own, and that stays.
            let change = "update parked p set state = $3,
                              changed_at = case when $3 <> 'held' then clock_timestamp() end,
                              changed_by = case when $3 <> 'held' then $4 end,
                              note = case when $3 = 'held' then 'had back by ' || $4 end
                          where id = any($1) and state = $2
                            and ($3 <> 'held' or (
                                not exists (select from parked h where h.state = 'held' and h.fingerprint = p.fingerprint)
                                -- Of the same message, dropped twice, one comes back.
                                and not exists (
                                    select from parked later
                                    where later.id = any($1) and later.state = $2 and later.fingerprint = p.fingerprint and later.id > p.id)))";
            client.execute(change, &[&ids, &from.as_str(), &to.as_str(), &by]).await
        });
        Ok(changed.await?)
    }

    /// Looks at messages that were parked for reasons that end with their orders, `count_max` of them after the message
    /// `after`, and drops those whose orders have all settled in another way. Returns how many were dropped, and where
    /// to go on; `None`: these were the last.
    ///
    /// # Errors
    /// [`BookError`]: none was dropped, or it is not known.
    pub async fn clear_settled(&self, after: i64, count_max: i64) -> Result<(i64, Option<i64>), BookError> {
        let reasons: Vec<&str> = ParkReason::codes_that_end_with_their_orders().collect();
        let row = self.client.within(is_bad, async |client| {
            let clear = client.prepare_cached(include_str!("clear_settled.sql")).await?;
            client.query_one(&clear, &[&reasons, &after, &count_max]).await
        });
        let row = row.await?;
        let (looked_at, last): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        Ok((row.try_get(2)?, last.filter(|_| looked_at == count_max)))
    }

    /// Deletes messages that were sent in again or dropped more than [`KEPT_FOR`] ago.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn tidy(&self) -> Result<u64, BookError> {
        let seconds = KEPT_FOR.as_secs_f64();
        let deleted = self.client.within(is_bad, async |client| {
            let delete = "delete from parked where state <> 'held' and changed_at < statement_timestamp() - $1 * interval '1 second'";
            client.execute(delete, &[&seconds]).await
        });
        Ok(deleted.await?)
    }
}

fn group(row: &Row) -> Result<ParkedGroup, BookError> {
    Ok(ParkedGroup {
        reason: row.try_get("reason")?,
        messages: row.try_get("messages")?,
        first_at: row.try_get("first_at")?,
        last_at: row.try_get("last_at")?,
        detail: row.try_get("detail")?,
        last_id: row.try_get("last_id")?,
    })
}

pub(crate) fn parked_row(row: &Row) -> Result<ParkedRow, BookError> {
    let json = |name: &str| -> Result<Map<String, Value>, BookError> {
        Ok(serde_json::from_str(row.try_get(name)?).unwrap_or_default())
    };
    Ok(ParkedRow {
        id: row.try_get("id")?,
        parking: Parking {
            reason: row.try_get("reason")?,
            detail: row.try_get("detail")?,
            orders: row.try_get("orders")?,
            routing_key: row.try_get("routing_key")?,
            properties: json("properties")?,
            headers: json("headers")?,
            body: row.try_get("body")?,
            attempts: row.try_get::<_, i32>("attempts")?.unsigned_abs(),
            history: row.try_get("history")?,
            at: row.try_get("first_at")?,
        },
        times: row.try_get("times")?,
        last_at: row.try_get("last_at")?,
        state: row.try_get("state")?,
        note: row.try_get("note")?,
        changed_at: row.try_get("changed_at")?,
        changed_by: row.try_get("changed_by")?,
    })
}
