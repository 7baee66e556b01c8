//! Messages that come out of their lanes before their time. A lane does not keep them if a policy limits it, for example, or if
//! somebody's binding leads past it. Sent into it again they would go round as fast as the servers can. So they wait in
//! the outbox, and are sent again from there, until the lanes keep them.

use std::time::Duration;

use book::{BookError, KeptBack, ServerTime};
use broker::Incoming;
use time::OffsetDateTime;
use trace::Throttle;

use crate::metrics::WorkerMetrics;
use crate::patience::{Interrupted, Patience};
use crate::shared_book::SharedBook;

/// What a pipeline does with messages that are too early.
pub(crate) struct Early {
    book: SharedBook,
    metrics: WorkerMetrics,
    warnings: Throttle,
}

/// What comes so much too early is early. Less may be due to clocks.
const EARLY_MIN: Duration = Duration::from_millis(500);

/// The longest that a message waits before the lanes are tried again.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What has no more than this before it waits it out: half of it would soon be half of nothing.
const LAST_STRETCH: Duration = Duration::from_secs(2);

const TROUBLE: &str = "messages that came before their time cannot be kept back";

/// Whether a message has come out of its lane before its time.
pub(crate) fn is_early(message: &Incoming, now: OffsetDateTime) -> bool {
    ahead(message, now).is_some()
}

impl Early {
    pub(crate) fn new(book: SharedBook, metrics: WorkerMetrics) -> Self {
        Self { book, metrics, warnings: Throttle::default() }
    }

    /// Keeps back messages that are too early. Returns the book's time; `None`: they cannot be kept back, and are to be handled as
    /// if they had come in time.
    pub(crate) async fn keep_back(
        &self,
        messages: &[Incoming],
        now: OffsetDateTime,
        patience: &Patience,
    ) -> Result<Option<ServerTime>, Interrupted> {
        let timeouts: Vec<KeptBack> = messages.iter().filter_map(|message| kept_back(message, now)).flatten().collect();
        let is_answer = |error: &BookError| !matches!(error, BookError::Away(_));
        let kept = patience.until(TROUBLE, is_answer, || self.book.book.keep_back(&timeouts)).await?;
        let time = kept.unwrap_or_else(|error| {
            if let Some(more) = self.warnings.lets_through("cannot") {
                tracing::error!(%error, more, "{TROUBLE}");
            }
            None
        });
        if time.is_some() {
            self.metrics.early.inc_by(messages.len() as u64);
            if let Some(more) = self.warnings.lets_through("early") {
                tracing::warn!(
                    messages = messages.len(),
                    more,
                    "messages came out of their lanes before their time; they wait in the outbox: `overdue topology verify` names a policy or a binding that is at fault"
                );
            }
        }
        Ok(time)
    }
}

/// By how much a message is too early, and when it is to come.
fn ahead(message: &Incoming, now: OffsetDateTime) -> Option<(Duration, OffsetDateTime)> {
    // What is bad in it is parked, early or not.
    message.content.as_ref().ok().filter(|content| content.bad_entries.is_empty())?;
    let until = message.until()?;
    let ahead = Duration::try_from(until - now).ok().filter(|ahead| *ahead > EARLY_MIN)?;
    Some((ahead, until))
}

/// The orders of this message as they are to wait outside its lane; `None`: it has not come too early.
fn kept_back(message: &Incoming, now: OffsetDateTime) -> Option<impl Iterator<Item = KeptBack> + '_> {
    let content = message.content.as_ref().ok()?;
    let (ahead, until) = ahead(message, now)?;
    let wait = if ahead <= LAST_STRETCH { ahead } else { (ahead / 2).min(WAIT_MAX) };
    // A time that somebody made up may lie beyond all that a database can hold.
    let farthest = now + Duration::from_hours(366 * 24);
    let (kind, trace) = (message.kind(), message.traceparent());
    let mut dues = message.due().into_iter().flatten().map(|(_, due)| due.instant());
    Some(content.ids.iter().map(move |id| {
        // What is due already is to be looked at again.
        let due = dues.next().filter(|due| *due > now).unwrap_or(until).min(farthest);
        KeptBack { id: id.clone(), kind, due, wait, trace: trace.clone() }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::now;

    fn message(early_by: Duration) -> Incoming {
        Incoming::untouched_by_a_broker("30m.payment", b"o-1").meant_for(now() + early_by)
    }

    #[test]
    fn what_is_early_waits_for_half_of_what_is_left_and_its_last_stretch_whole() {
        let waits = |ms| {
            let message = message(Duration::from_millis(ms));
            let kept = kept_back(&message, now()).map(Iterator::collect::<Vec<_>>);
            kept.map(|kept| kept[0].wait.as_millis())
        };
        let cases = [(0, None), (500, None), (600, Some(600)), (2_000, Some(2_000)), (10_000, Some(5_000))];
        for (early_by, expected) in cases {
            assert_eq!(waits(early_by), expected, "{early_by}");
        }
        assert_eq!(waits(30 * 60 * 1_000), Some(30_000));
        let punctual = Incoming::untouched_by_a_broker("30m.payment", b"o-1");
        assert!(kept_back(&punctual, now()).is_none(), "a foreign message does not say");
    }

    #[test]
    fn a_time_that_somebody_made_up_is_no_trouble() {
        let far = message(Duration::from_hours(24 * 365 * 1_000));
        let kept: Vec<KeptBack> = kept_back(&far, now()).unwrap().collect();
        assert_eq!((kept[0].wait, kept[0].due), (WAIT_MAX, now() + Duration::from_hours(366 * 24)));
    }
}
