//! What a person does with many parked messages at once: some at a time, those that there are now and not those that
//! come meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use book::{BookError, ParkedFilter, ParkedRow, ParkedState, ParkedTable};
use broker::{NotPublished, Outgoing, Publisher};
use order::UnknownKind;
use tokio_util::sync::CancellationToken;

/// Which parked messages: those that the filter chooses, up to a number.
#[derive(Debug, Clone, Default)]
pub struct ParkedChoice {
    /// Which of them.
    pub filter: ParkedFilter,
    /// The number of the last of them.
    pub until: i64,
}

/// How far it has come, for whoever looks on; and whether it is to go on.
#[derive(Debug, Default)]
pub struct Progress {
    handled: AtomicU64,
    stop: CancellationToken,
}

/// How a requeue ended.
#[derive(Debug)]
pub struct Requeued {
    /// How many messages were sent in again.
    pub count: u64,
    /// Why some of them stay parked: they are of a kind that this version does not know.
    pub unknown: Option<UnknownKind>,
    /// Whether all of the others were sent in again.
    pub ended: Result<(), HandlingError>,
}

/// Why not all messages were handled. Those that were are counted.
#[derive(Debug, thiserror::Error)]
pub enum HandlingError {
    /// The table cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The broker does not take them.
    #[error(transparent)]
    Broker(#[from] NotPublished),
    /// It was to stop.
    #[error("the process was told to stop")]
    Stopped,
}

/// How many messages are handled at a time.
const CHUNK: i64 = 100;

impl Progress {
    /// Nothing is done yet, and `stop` ends it.
    #[must_use]
    pub fn until(stop: CancellationToken) -> Self {
        Self { handled: AtomicU64::default(), stop }
    }

    /// How many things were looked at.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    fn go_on(&self, handled: u64) -> Result<(), HandlingError> {
        self.handled.fetch_add(handled, Ordering::Relaxed);
        if self.stop.is_cancelled() { Err(HandlingError::Stopped) } else { Ok(()) }
    }
}

/// Sends messages in again that are held, with no attempts made. What somebody else is sending in at this moment is
/// passed over. A row says that it was sent only when the broker has confirmed it: at worst, if the process dies in
/// between, a message is sent twice.
pub async fn requeue(
    table: &ParkedTable,
    publisher: &mut Publisher,
    choice: &ParkedChoice,
    by: &str,
    progress: &Progress,
) -> Requeued {
    let mut requeued = Requeued { count: 0, unknown: None, ended: Ok(()) };
    let mut after = 0;
    loop {
        let mut failure = None;
        let send = async |rows| {
            let (sent, error) = send(publisher, rows, &mut requeued.unknown).await;
            failure = error;
            requeued.count += sent.len() as u64;
            sent
        };
        let taken = table.send_again(&choice.filter, (after, choice.until), CHUNK, by, send).await;
        requeued.ended = match (taken, failure) {
            (Err(error), _) => Err(error.into()),
            (_, Some(error)) => Err(error.into()),
            (Ok(None), None) => return requeued,
            (Ok(Some(sent)), None) => {
                after = sent.last;
                progress.go_on(sent.seen)
            }
        };
        if requeued.ended.is_err() {
            return requeued;
        }
    }
}

/// The numbers of those that the broker has taken, and why not all were.
async fn send(
    publisher: &mut Publisher,
    rows: Vec<ParkedRow>,
    unknown: &mut Option<UnknownKind>,
) -> (Vec<i64>, Option<NotPublished>) {
    let (mut ids, mut messages) = (Vec::new(), Vec::new());
    for ParkedRow { id, parking, .. } in rows {
        match Outgoing::sent_in_again(&parking.routing_key, parking.body, &parking.properties, &parking.headers) {
            Ok(again) => {
                ids.push(id);
                messages.push(again);
            }
            Err(kind) => *unknown = Some(kind),
        }
    }
    let fates = publisher.publish(&messages).await;
    let sent = ids.into_iter().zip(&fates).filter(|(_, fate)| fate.is_ok()).map(|(id, _)| id).collect();
    (sent, fates.into_iter().find_map(Result::err))
}

/// Moves messages from one state to another, and says how many there were.
///
/// # Errors
/// [`HandlingError`]: some may have been moved; `progress` tells how many were looked at.
pub async fn move_parked(
    table: &ParkedTable,
    choice: &ParkedChoice,
    states: (ParkedState, ParkedState),
    by: &str,
    progress: &Progress,
) -> Result<u64, HandlingError> {
    let (mut after, mut count) = (0, 0);
    loop {
        let ids = table.ids(&choice.filter, states.0, (after, choice.until), CHUNK).await?;
        let Some(last) = ids.last() else { return Ok(count) };
        after = *last;
        count += table.change(&ids, states, by).await?;
        progress.go_on(ids.len() as u64)?;
    }
}
