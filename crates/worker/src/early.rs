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

/// What a pipeline knows of the time, and what it does with messages that are too early.
pub(crate) struct Early {
    book: SharedBook,
    metrics: WorkerMetrics,
    warnings: Throttle,
    /// The book's time; `None` before the first batch.
    clock: Option<ServerTime>,
}

/// What comes so much too early is early. Less may be due to clocks.
const EARLY_MIN: Duration = Duration::from_millis(500);

/// The longest that a message waits before the lanes are tried again.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What has no more than this before it waits it out: half of it would soon be half of nothing.
const LAST_STRETCH: Duration = Duration::from_secs(2);

const TROUBLE: &str = "messages that came before their time cannot be kept back";

impl Early {
    pub(crate) fn new(book: SharedBook, metrics: WorkerMetrics) -> Self {
        Self { book, metrics, warnings: Throttle::default(), clock: None }
    }

    /// What the book's time was just now.
    pub(crate) fn set_clock(&mut self, time: ServerTime) {
        self.clock = Some(time);
    }

    /// Keeps back what is too early. Returns the others, which are to be handled.
    pub(crate) async fn keep_back<'a>(
        &mut self,
        messages: &'a [Incoming],
        patience: &Patience,
    ) -> Result<Vec<&'a Incoming>, Interrupted> {
        let Some(now) = self.clock.map(ServerTime::now) else { return Ok(messages.iter().collect()) };
        let (mut timeouts, mut punctual) = (Vec::new(), Vec::new());
        for message in messages {
            match kept_back(message, now) {
                Some(kept) => timeouts.extend(kept),
                None => punctual.push(message),
            }
        }
        let early = messages.len() - punctual.len();
        if early == 0 {
            return Ok(punctual);
        }
        let is_answer = |error: &BookError| !matches!(error, BookError::Away(_));
        match patience.until(TROUBLE, is_answer, || self.book.book.keep_back(&timeouts)).await? {
            Ok(Some(time)) => self.clock = Some(time),
            // They are handled as if they had come in time.
            Ok(None) => return Ok(messages.iter().collect()),
            Err(error) => {
                if let Some(more) = self.warnings.lets_through("cannot") {
                    tracing::error!(%error, more, "{TROUBLE}");
                }
                return Ok(messages.iter().collect());
            }
        }
        self.metrics.early.inc_by(early as u64);
        if let Some(more) = self.warnings.lets_through("early") {
            tracing::warn!(
                messages = early,
                more,
                "messages came out of their lanes before their time; they wait in the outbox: `overdue topology verify` names a policy or a binding that is at fault"
            );
        }
        Ok(punctual)
    }
}

/// The orders of this message as they are to wait outside its lane; `None`: it has not come too early.
fn kept_back(message: &Incoming, now: OffsetDateTime) -> Option<impl Iterator<Item = KeptBack> + '_> {
    // What is bad in it is parked, early or not.
    let content = message.content.as_ref().ok().filter(|content| content.bad_entries.is_empty())?;
    let until = message.until()?;
    let ahead = Duration::try_from(until - now).ok().filter(|ahead| *ahead > EARLY_MIN)?;
    let wait = if ahead <= LAST_STRETCH { ahead } else { (ahead / 2).min(WAIT_MAX) };
    // A time that somebody made up may lie beyond all that a database can hold.
    let due = until.min(now + Duration::from_hours(366 * 24));
    let (kind, trace) = (message.kind(), message.traceparent());
    Some(content.orders.iter().map(move |id| KeptBack { id: id.clone(), kind, due, wait, trace: trace.clone() }))
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
