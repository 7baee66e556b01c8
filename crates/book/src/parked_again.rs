//! How parked messages are sent in again: whoever does it holds them meanwhile, so that nobody else sends or drops
//! them.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use crate::BookError;
use crate::parked::{COLUMNS, ParkedRow, ParkedTable, parked_row};
use crate::parked_filter::{ParkedFilter, ParkedState, chosen_page};
use crate::postgres::is_bad;

/// What became of some messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentAgain {
    /// How many were looked at.
    pub seen: u64,
    /// The number of the last of them.
    pub last: i64,
}

/// How long it may take to send some messages, the broker's confirms included.
const SEND_MAX: Duration = Duration::from_secs(60);

/// The most bytes of messages that are taken together; one message may be larger.
const BYTES_MAX: i64 = 8 * 1024 * 1024;

impl ParkedTable {
    /// Takes messages that are chosen and held, as [`ParkedTable::page`] does, has them sent, and notes of those whose
    /// numbers `send` returns that they were sent in again. Until then nobody else can have them: those that another
    /// holds are passed over. `None`: there are no more.
    ///
    /// # Errors
    /// [`BookError`]: of none of them it was noted, or it is not known.
    pub async fn send_again(
        &self,
        filter: &ParkedFilter,
        (after, until): (i64, i64),
        count_max: i64,
        by: &str,
        send: impl AsyncFnOnce(Vec<ParkedRow>) -> Vec<i64>,
    ) -> Result<Option<SentAgain>, BookError> {
        let (ages, state) = (filter.ages(), ParkedState::Held.as_str());
        let client = self.client.clone().answering_within(SEND_MAX);
        let sent = client.within(is_bad, async |client| {
            let transaction = client.transaction().await?;
            // The confirms are waited for between two statements.
            let idle = format!("set local idle_in_transaction_session_timeout = {}", SEND_MAX.as_millis());
            transaction.batch_execute(&idle).await?;
            let take = format!(
                "select id, octet_length(body)::bigint from parked where {} for update skip locked",
                chosen_page()
            );
            let mut values = filter.values(&ages, &state);
            values.extend([&after as &(dyn ToSql + Sync), &until, &count_max]);
            let mut taken = Vec::new();
            let mut bytes = 0;
            for row in transaction.query(&take, &values).await? {
                let (id, size): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                bytes += size;
                if bytes > BYTES_MAX && !taken.is_empty() {
                    break;
                }
                taken.push(id);
            }
            let Some(last) = taken.last().copied() else { return Ok(Ok(None)) };
            let all = format!("select {COLUMNS} from parked where id = any($1) order by id");
            let rows = transaction.query(&all, &[&taken]).await?;
            let rows = match rows.iter().map(parked_row).collect::<Result<Vec<_>, BookError>>() {
                Ok(rows) => rows,
                Err(error) => return Ok(Err(error)),
            };
            let seen = rows.len() as u64;
            let sent = send(rows).await;
            let note =
                "update parked set state = 'requeued', changed_at = clock_timestamp(), changed_by = $2, note = null
                        where id = any($1)";
            transaction.execute(note, &[&sent, &by]).await?;
            transaction.commit().await?;
            Ok(Ok(Some(SentAgain { seen, last })))
        });
        sent.await?
    }
}
