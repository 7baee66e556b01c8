//! What a person does with many parked messages at once: some at a time, those that there are now and not those that come meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use book::{BookError, ParkedFilter, ParkedRow, ParkedState, ParkedTable};
use broker::{NotPublished, Outgoing, Publisher};
use order::UnknownKind;

/// Which parked messages: those that the filter chooses, up to a number.
#[derive(Debug, Clone, Default)]
pub struct ParkedChoice {
    /// Which of them.
    pub filter: ParkedFilter,
    /// The number of the last of them.
    pub until: i64,
}

/// How a requeue ended.
#[derive(Debug)]
pub struct Requeued {
    /// How many messages were sent in again.
    pub count: u64,
    /// Why some of them stay parked: they are of a kind that this version does not know.
    pub unknown: Option<UnknownKind>,
    /// Whether all of the others were sent in again.
    pub ended: Result<(), RequeueError>,
}

/// Why not all messages were sent in again. Those that were are counted.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// The table cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The broker does not take them.
    #[error(transparent)]
    Broker(#[from] NotPublished),
}

/// How many messages are handled at a time.
const CHUNK: i64 = 100;

/// Sends messages in again that are held, with no attempts made. A row says so only when the broker has confirmed it: at worst a message
/// is sent twice. `handled` counts along.
pub async fn requeue(
    table: &ParkedTable,
    publisher: &mut Publisher,
    choice: &ParkedChoice,
    by: &str,
    handled: &AtomicU64,
) -> Requeued {
    let mut requeued = Requeued { count: 0, unknown: None, ended: Ok(()) };
    let mut after = 0;
    loop {
        let rows = match table.page(&choice.filter, ParkedState::Held, (after, choice.until), CHUNK).await {
            Ok(rows) => rows,
            Err(error) => {
                requeued.ended = Err(error.into());
                return requeued;
            }
        };
        let Some(last) = rows.last() else { return requeued };
        after = last.id;
        let seen = rows.len() as u64;
        if let Err(error) = send(table, publisher, rows, by, &mut requeued).await {
            requeued.ended = Err(error);
            return requeued;
        }
        handled.fetch_add(seen, Ordering::Relaxed);
    }
}

async fn send(
    table: &ParkedTable,
    publisher: &mut Publisher,
    rows: Vec<ParkedRow>,
    by: &str,
    requeued: &mut Requeued,
) -> Result<(), RequeueError> {
    let (mut ids, mut messages) = (Vec::new(), Vec::new());
    for ParkedRow { id, times, parking, .. } in rows {
        match Outgoing::sent_in_again(&parking.routing_key, parking.body, &parking.properties, &parking.headers) {
            Ok(again) => {
                ids.push((id, times));
                messages.push(again);
            }
            Err(kind) => requeued.unknown = Some(kind),
        }
    }
    let fates = publisher.publish(&messages).await;
    let sent: Vec<(i64, i64)> = ids.iter().zip(&fates).filter(|(_, fate)| fate.is_ok()).map(|(id, _)| *id).collect();
    table.sent_in_again(&sent, by).await?;
    requeued.count += sent.len() as u64;
    Ok(fates.into_iter().collect::<Result<(), _>>()?)
}

/// Moves messages from one state to another, and says how many there were. `handled` counts along.
///
/// # Errors
/// [`BookError`]: some may have been moved; `handled` tells how many were looked at.
pub async fn move_parked(
    table: &ParkedTable,
    choice: &ParkedChoice,
    states: (ParkedState, ParkedState),
    by: &str,
    handled: &AtomicU64,
) -> Result<u64, BookError> {
    let (mut after, mut count) = (0, 0);
    loop {
        let rows = table.page(&choice.filter, states.0, (after, choice.until), CHUNK).await?;
        let Some(last) = rows.last() else { return Ok(count) };
        after = last.id;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        count += table.change(&ids, states, by).await?;
        handled.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }
}
