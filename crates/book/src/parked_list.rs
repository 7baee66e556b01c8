//! Parked messages as lists show them: without their bytes and headers, of which there may be very much.

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::BookError;
use crate::parked::ParkedTable;
use crate::parked_filter::{ParkedFilter, ParkedState, chosen_page};
use crate::postgres::is_bad;

/// What a list shows of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedEntry {
    /// Its number in the table.
    pub id: i64,
    /// A code of [`order::ParkReason`], or the broker's own word.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// The orders that it names.
    pub orders: Vec<String>,
    /// How often it came.
    pub times: i64,
    /// When it first came.
    pub first_at: OffsetDateTime,
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

const COLUMNS: &str = "id, reason, detail, orders, times, first_at, last_at, state, note, changed_at, changed_by";

impl ParkedTable {
    /// What a list shows of the messages that [`ParkedTable::page`] returns.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn entries(
        &self,
        filter: &ParkedFilter,
        state: ParkedState,
        range: (i64, i64),
        count_max: i64,
    ) -> Result<Vec<ParkedEntry>, BookError> {
        self.chosen(COLUMNS, filter, state, range, count_max).await?.iter().map(entry).collect()
    }

    /// The numbers of the messages that [`ParkedTable::page`] returns.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn ids(
        &self,
        filter: &ParkedFilter,
        state: ParkedState,
        range: (i64, i64),
        count_max: i64,
    ) -> Result<Vec<i64>, BookError> {
        let rows = self.chosen("id", filter, state, range, count_max).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// What a list shows of the messages that name an order, or a timer, in whatever state, in the order of their
    /// numbers.
    ///
    /// # Errors
    /// [`BookError`] where the database cannot be asked.
    pub async fn of_order(&self, order: &str, count_max: i64) -> Result<Vec<ParkedEntry>, BookError> {
        let rows = self.client.within(is_bad, async |client| {
            // By their orders first, whatever the planner believes of how many there are.
            let of_order = format!(
                "with of_order as materialized (select {COLUMNS} from parked where orders @> array[$1])
                 select * from of_order order by id limit $2"
            );
            client.query(&client.prepare_cached(&of_order).await?, &[&order, &count_max]).await
        });
        rows.await?.iter().map(entry).collect()
    }

    /// These columns of the messages that are chosen and in this state, in the order of their numbers.
    pub(crate) async fn chosen(
        &self,
        columns: &str,
        filter: &ParkedFilter,
        state: ParkedState,
        (after, until): (i64, i64),
        count_max: i64,
    ) -> Result<Vec<Row>, BookError> {
        let (ages, state) = (filter.ages(), state.as_str());
        let rows = self.client.within(is_bad, async |client| {
            let page = format!("select {columns} from parked where {}", chosen_page());
            let mut values = filter.values(&ages, &state);
            values.extend([&after as &(dyn ToSql + Sync), &until, &count_max]);
            client.query(&page, &values).await
        });
        Ok(rows.await?)
    }
}

fn entry(row: &Row) -> Result<ParkedEntry, BookError> {
    Ok(ParkedEntry {
        id: row.try_get("id")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        orders: row.try_get("orders")?,
        times: row.try_get("times")?,
        first_at: row.try_get("first_at")?,
        last_at: row.try_get("last_at")?,
        state: row.try_get("state")?,
        note: row.try_get("note")?,
        changed_at: row.try_get("changed_at")?,
        changed_by: row.try_get("changed_by")?,
    })
}
