//! Orders that came before they are due, in memory until then, with the messages that brought them. A message is acked when the
//! last of its orders is done, so whatever happens to the worker, it comes again.
//!
//! The pipelines of one queue share a hold: what falls due together is one batch, whoever brought it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::{DeliveryTag, Incoming};
use order::TimeoutId;
use prometheus_client::metrics::gauge::Gauge;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// What the pipelines of one queue hold. Copies are the same.
#[derive(Clone)]
pub(crate) struct Hold {
    held: Arc<Mutex<State>>,
    /// Wakes the pipelines that wait for what is due later.
    sooner: Arc<Notify>,
    /// How many orders are held, for all who look.
    shown: Gauge,
}

#[derive(Default)]
struct State {
    messages: HashMap<Key, Held>,
    /// Which orders fall due in a slot, by its end.
    slots: BTreeMap<OffsetDateTime, VecDeque<Place>>,
    orders: usize,
    bytes: usize,
    /// The sessions at work.
    sessions: HashMap<u64, SessionState>,
    last_session: u64,
}

#[derive(Default)]
struct SessionState {
    /// How many of its messages are held.
    messages: usize,
    /// Those that are done and not acked.
    done: Vec<DeliveryTag>,
    /// Tells it of them.
    finished: Arc<Notify>,
}

/// A message: the session that has brought it, which alone can ack it, and its tag there.
type Key = (u64, DeliveryTag);

struct Held {
    message: Arc<Incoming>,
    /// How many of its orders are not done.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    key: Key,
    /// Which of the message's orders.
    index: usize,
}

/// An order that was held until it fell due.
pub(crate) struct Taken {
    place: Place,
    message: Arc<Incoming>,
}

/// A session's part in a hold. With it goes all that the session has brought: it comes again.
pub(crate) struct Share {
    hold: Hold,
    session: u64,
    finished: Arc<Notify>,
}

/// Orders that fall due within a slot are settled together, at its end.
const SLOT: Duration = Duration::from_millis(10);

/// From so many orders on only what is due soon is held.
const ORDERS_FULL: usize = 131_072;

/// From so many bytes of messages on.
const BYTES_FULL: usize = 64 << 20;

impl Hold {
    pub(crate) fn new(shown: Gauge) -> Self {
        Self { held: Arc::default(), sooner: Arc::default(), shown }
    }

    /// For a session that begins.
    pub(crate) fn share(&self) -> Share {
        let mut state = self.state();
        state.last_session += 1;
        let session = state.last_session;
        let finished = Arc::clone(&state.sessions.entry(session).or_default().finished);
        Share { hold: self.clone(), session, finished }
    }

    /// Whether only what is due soon is to be added.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state();
        state.orders >= ORDERS_FULL || state.bytes >= BYTES_FULL
    }

    /// Whether nothing is to be added, however soon it is due.
    pub(crate) fn is_over_full(&self) -> bool {
        let state = self.state();
        state.orders >= 2 * ORDERS_FULL || state.bytes >= 2 * BYTES_FULL
    }

    /// How long until the first slot ends; `None`: nothing waits.
    pub(crate) fn next_due_in(&self, now: OffsetDateTime) -> Option<Duration> {
        let end = self.state().first()?;
        Some(Duration::try_from(end - now).unwrap_or_default())
    }

    /// How many orders are due and not taken, or a few more.
    pub(crate) fn due(&self, now: OffsetDateTime) -> usize {
        self.state().slots.range(..=now).map(|(_, slot)| slot.len()).sum()
    }

    /// How many sessions share it.
    pub(crate) fn sessions(&self) -> usize {
        self.state().sessions.len()
    }

    /// Until something is added that is due sooner than all that there is, from this call on.
    pub(crate) fn sooner(&self) -> OwnedNotified {
        Arc::clone(&self.sooner).notified_owned()
    }

    /// Takes orders that are due, `orders_max` at most; others are left to other pipelines. They count as held until they are
    /// [done](Hold::done) or [put back](Hold::put_back).
    pub(crate) fn take_due(&self, now: OffsetDateTime, orders_max: usize) -> Vec<Taken> {
        let mut state = self.state();
        let mut taken = Vec::new();
        while let Some(mut slot) = state.slots.first_entry()
            && *slot.key() <= now
            && taken.len() < orders_max
        {
            let wanted = orders_max - taken.len();
            // What came first goes first: the fewest acks are needed then.
            let places =
                if slot.get().len() <= wanted { slot.remove() } else { slot.get_mut().drain(..wanted).collect() };
            for place in places {
                // The session that has brought it may have ended.
                if let Some(held) = state.messages.get(&place.key) {
                    taken.push(Taken { place, message: Arc::clone(&held.message) });
                }
            }
        }
        taken
    }

    /// Gives back what was taken and is not done: another pipeline takes it.
    pub(crate) fn put_back(&self, taken: Vec<Taken>) {
        let places = taken.into_iter().map(|taken| taken.place);
        self.state().slots.entry(OffsetDateTime::UNIX_EPOCH).or_default().extend(places);
        self.sooner.notify_waiters();
    }

    /// Lets go of orders that are done. The sessions of messages of which none is left are told to ack them.
    pub(crate) fn done(&self, taken: &[Taken]) {
        let mut state = self.state();
        let before = state.orders;
        for Taken { place: Place { key, .. }, .. } in taken {
            let Some(held) = state.messages.get_mut(key) else { continue };
            held.open -= 1;
            state.orders -= 1;
            state.finish(*key);
        }
        self.shown.dec_by((before - state.orders) as i64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When the first slot ends.
    fn first(&self) -> Option<OffsetDateTime> {
        self.slots.first_key_value().map(|(end, _)| *end)
    }

    /// If no order of this message is open any more, its session is told to ack it.
    fn finish(&mut self, key: Key) {
        let is_done = self.messages.get(&key).is_some_and(|held| held.open == 0);
        let Some(held) = is_done.then(|| self.messages.remove(&key)).flatten() else { return };
        self.bytes -= held.message.bytes();
        if let Some(session) = self.sessions.get_mut(&key.0) {
            session.messages -= 1;
            session.done.push(key.1);
            session.finished.notify_one();
        }
    }
}

impl Taken {
    /// The order, and the message that brought it.
    pub(crate) fn order(&self) -> Option<(&TimeoutId, &Incoming)> {
        Some((self.message.content.as_ref().ok()?.ids.get(self.place.index)?, &self.message))
    }
}

/// The messages of these orders, each once.
pub(crate) fn messages_of(taken: &[Taken]) -> Vec<&Incoming> {
    let messages: BTreeMap<Key, &Incoming> =
        taken.iter().map(|taken| (taken.place.key, taken.message.as_ref())).collect();
    messages.into_values().collect()
}

impl Share {
    /// Holds this message of the session, with its orders and when each is due.
    pub(crate) fn add(&mut self, message: Incoming) {
        let key = (self.session, message.tag());
        let message = Arc::new(message);
        let mut state = self.hold.state();
        let first = state.first();
        let mut open = 0;
        for (index, (_, due)) in message.due().into_iter().flatten().enumerate() {
            state.slots.entry(end_of_slot(due.instant())).or_default().push_back(Place { key, index });
            open += 1;
        }
        state.orders += open;
        state.bytes += message.bytes();
        self.hold.shown.inc_by(open as i64);
        state.messages.insert(key, Held { message, open });
        if let Some(session) = state.sessions.get_mut(&self.session) {
            session.messages += 1;
        }
        // Whoever has brought it may have more than it can settle alone.
        if first.is_none_or(|first| state.first().is_some_and(|now| now < first)) {
            self.hold.sooner.notify_waiters();
        }
    }

    /// Whether no message of the session is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.hold.state().sessions.get(&self.session).is_none_or(|session| session.messages == 0)
    }

    /// Messages of the session that are done since this was last asked: they may be acked.
    pub(crate) fn finished(&mut self) -> Vec<DeliveryTag> {
        let mut state = self.hold.state();
        state.sessions.get_mut(&self.session).map(|session| std::mem::take(&mut session.done)).unwrap_or_default()
    }

    /// Until another pipeline is done with messages of the session.
    pub(crate) async fn finishes(&self) {
        self.finished.notified().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.hold.state();
        state.sessions.remove(&self.session);
        let gone: Vec<Key> = state.messages.keys().filter(|(session, _)| *session == self.session).copied().collect();
        let before = state.orders;
        for key in gone {
            if let Some(held) = state.messages.remove(&key) {
                state.orders -= held.open;
                state.bytes -= held.message.bytes();
            }
        }
        self.hold.shown.dec_by((before - state.orders) as i64);
    }
}

fn end_of_slot(due: OffsetDateTime) -> OffsetDateTime {
    let slot = SLOT.as_nanos().cast_signed();
    let over = due.unix_timestamp_nanos().rem_euclid(slot);
    // At the end of all calendars there is no later instant.
    let rest = Duration::from_nanos(u64::try_from((slot - over) % slot).unwrap_or_default());
    due.checked_add(time::Duration::try_from(rest).unwrap_or_default()).unwrap_or(due)
}

#[cfg(test)]
mod tests {
    use order::Deadline;

    use super::*;
    use crate::fakes::{id, now, of_ours};

    fn at(ms: u64) -> OffsetDateTime {
        now() + Duration::from_millis(ms)
    }

    fn names(taken: &[Taken]) -> Vec<String> {
        let mut names: Vec<String> = taken.iter().map(|taken| taken.order().unwrap().0.to_string()).collect();
        names.sort();
        names
    }

    fn held() -> (Hold, Share) {
        let due = |ms| Deadline::at(at(ms));
        let hold = Hold::new(Gauge::default());
        let mut share = hold.share();
        share.add(of_ours(1, &[(id("a"), due(5)), (id("b"), due(900))]));
        share.add(of_ours(2, &[(id("c"), due(9))]));
        share.add(of_ours(3, &[(id("d"), due(11))]));
        (hold, share)
    }

    #[test]
    fn what_falls_due_together_is_taken_together_and_not_before() {
        let (hold, _share) = held();
        assert_eq!(hold.next_due_in(at(0)), Some(Duration::from_millis(10)));
        assert!(hold.take_due(at(9), 10).is_empty());
        let taken = hold.take_due(at(10), 10);
        assert_eq!((names(&taken), messages_of(&taken).len()), (vec!["a".to_owned(), "c".to_owned()], 2));
        assert_eq!(hold.next_due_in(at(10)), Some(Duration::from_millis(10)));
        assert_eq!(names(&hold.take_due(at(2_000), 1)), ["d"], "there is a bound");
    }

    #[test]
    fn what_falls_due_at_one_instant_is_shared_out() {
        let (hold, mut share) = held();
        let all: Vec<_> = (0..250).map(|number| (id(&format!("o-{number}")), Deadline::at(at(50)))).collect();
        share.add(of_ours(4, &all));
        let takes: Vec<usize> = (0..4).map(|_| hold.take_due(at(60), 100).len()).collect();
        assert_eq!(takes, [100, 100, 53, 0]);
    }

    #[test]
    fn a_message_is_acked_when_the_last_of_its_orders_is_done() {
        let (hold, mut share) = held();
        hold.done(&hold.take_due(at(10), 10));
        assert_eq!(share.finished(), [DeliveryTag::of(2)]);
        assert_eq!(hold.shown.get(), 2);
        hold.done(&hold.take_due(at(1_000), 10));
        let mut finished = share.finished();
        finished.sort_unstable();
        assert_eq!(finished, [DeliveryTag::of(1), DeliveryTag::of(3)]);
        assert!(share.is_empty() && hold.shown.get() == 0 && hold.state().bytes == 0);
    }

    #[test]
    fn what_a_pipeline_gives_back_another_takes() {
        let (hold, _share) = held();
        assert_eq!((hold.due(at(9)), hold.due(at(10))), (0, 2));
        hold.put_back(hold.take_due(at(10), 10));
        assert_eq!((hold.due(at(0)), hold.next_due_in(at(0))), (2, Some(Duration::ZERO)));
        assert_eq!(names(&hold.take_due(at(10), 10)), ["a", "c"]);
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_what_is_due_sooner() {
        let (hold, mut share) = held();
        let mut sooner = Box::pin(hold.sooner());
        let mut heard = async || tokio::time::timeout(Duration::ZERO, &mut sooner).await.is_ok();
        share.add(of_ours(4, &[(id("later"), Deadline::at(at(5_000)))]));
        assert!(!heard().await);
        share.add(of_ours(5, &[(id("overdue"), Deadline::at(at(0)))]));
        assert!(heard().await);
        let sooner = hold.sooner();
        hold.put_back(hold.take_due(at(10), 10));
        sooner.await;
    }

    #[tokio::test]
    async fn each_session_acks_its_own_and_with_it_goes_what_it_brought() {
        let (hold, share) = held();
        let mut other = hold.share();
        other.add(of_ours(1, &[(id("e"), Deadline::at(at(8)))]));
        let taken = hold.take_due(at(10), 10);
        assert_eq!(names(&taken), ["a", "c", "e"], "whoever brought them");
        drop(share);
        assert_eq!(hold.shown.get(), 1);
        hold.done(&taken);
        other.finishes().await;
        assert_eq!((other.finished(), hold.shown.get()), (vec![DeliveryTag::of(1)], 0));
        assert!(hold.take_due(at(10_000), 10).is_empty(), "what is left in the slots is nobody's");
    }
}
