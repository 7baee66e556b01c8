//! Calls to the database about many orders, or timers: the good go through, and the bad are left alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::time::Duration;

use book::{BookError, Closing, Firing, ItemReply, Payment, Reply, ServerTime, TimerCommand};
use futures_util::future::BoxFuture;
use order::{OrderId, TimerId};
use retry::{Delays, Policy};
use trace::Throttle;

use crate::evidence::{ALIKE, Begun, Evidence, Fault, Ready};
use crate::patience::{Interrupted, Patience};

/// What a call is about: one order, or one timer.
pub(crate) trait About {
    type Id: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static;

    fn id(&self) -> &Self::Id;

    /// The refusal, in words for a person.
    fn refusal(&self, detail: &str) -> String {
        detail.to_owned()
    }
}

impl About for OrderId {
    type Id = Self;

    fn id(&self) -> &Self {
        self
    }
}

impl About for Closing {
    type Id = OrderId;

    fn id(&self) -> &OrderId {
        &self.id
    }
}

impl About for TimerId {
    type Id = Self;

    fn id(&self) -> &Self {
        self
    }
}

impl About for Firing {
    type Id = TimerId;

    fn id(&self) -> &TimerId {
        &self.id
    }
}

impl About for TimerCommand {
    type Id = TimerId;

    fn id(&self) -> &TimerId {
        &self.id
    }
}

impl About for Payment {
    type Id = OrderId;

    fn id(&self) -> &OrderId {
        &self.id
    }

    /// Money must be mentioned.
    fn refusal(&self, detail: &str) -> String {
        format!("paid at the gateway as {}, but: {detail}", self.receipt.transaction_id)
    }
}

/// Calls of one kind.
pub(crate) struct Calls<'a, I> {
    pub(crate) to: &'a dyn Ready,
    /// What is said again and again.
    pub(crate) warnings: &'a Throttle,
    /// What calls of this kind have shown.
    pub(crate) evidence: &'a Evidence<I>,
    pub(crate) patience: &'a Patience,
    /// What the log says when no call can be made.
    pub(crate) trouble: &'static str,
}

/// What a call gives.
type Answer<R, I> = Result<Reply<R, I>, BookError>;

/// Parts of a whole, on their way through the calls.
struct Parts<'a, T: About, R> {
    /// Still to be called about.
    open: VecDeque<&'a [T]>,
    /// Orders about which calls fail even where they stand alone.
    suspects: Vec<Suspect<'a, T>>,
    /// Calls that failed.
    failures: usize,
    /// Whether any order went through.
    some_done: bool,
    /// Whether some orders are known to be at fault themselves.
    some_refused: bool,
    replies: Reply<R, T::Id>,
}

/// An order about which a call has failed.
struct Suspect<'a, T> {
    about: &'a T,
    error: BookError,
    begun: Begun,
    /// Whether others had gone through before.
    after_others: bool,
}

/// Into how many parts a part is split that fails. It costs as many calls as halving would, and half of the rounds.
const SPLIT: usize = 4;

/// When so many calls have failed, and none went through, some orders are tried alone: all of them may fail alike.
const SAMPLE_AFTER_FAILURES: usize = 1 + SPLIT + SPLIT * SPLIT;

/// How long an order is left alone while every order fails alike.
pub(crate) const HOLD: Duration = Duration::from_secs(15);

/// How long an order is left alone that has failed, when it is not known yet whether others fail, too.
pub(crate) const UNCLEAR_HOLD: Duration = Duration::from_secs(1);

/// How long an order is left alone with which the book was too busy.
const BUSY_HOLD: Duration = Duration::from_secs(2);

/// Between tries while the book is busy, and how many there are before it may be one of the orders.
const BUSY: Policy = Policy { initial: Duration::from_millis(50), max: Duration::from_millis(200) };
const BUSY_TRIES: u32 = 3;

impl<I: Clone + Eq + Hash + Display + Send + Sync + 'static> Calls<'_, I> {
    /// Calls the book about all of these, and waits out a book that is away. Where the book refuses the whole, or is
    /// too slow with it, the whole is split, and split again: until the order that breaks a rule stands alone, and the
    /// rest is quick enough. The parts take turns, so that good orders do not wait for the last bad one. The reply has
    /// an item for each, and the book's time, or the one that was `known` before.
    ///
    /// What fails alone is the order's own fault if others go through. If none does, it is the book's: then nothing is
    /// refused; all are tried again later.
    pub(crate) async fn in_parts<'a, T: About<Id = I>, R>(
        &self,
        whole: &'a [T],
        known: ServerTime,
        call: impl Fn(&'a [T]) -> BoxFuture<'a, Answer<R, I>>,
    ) -> Result<Reply<R, I>, Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        let mut replies = Reply { time: known, items: HashMap::new() };
        loop {
            let mut parts = Parts::new(whole, replies);
            let trouble = loop {
                self.call_all(&mut parts, &mut delays, &call).await?;
                if parts.give_another_chance() {
                    continue;
                }
                if parts.suspects.is_empty() {
                    self.report_locked(&parts.replies);
                    return Ok(parts.replies);
                }
                // What is wrong for every order alike is wrong for none, too.
                if !parts.some_done
                    && let Err(error) = self.to.ready().await
                {
                    break error;
                }
                if let Some(error) = self.conclude(&mut parts) {
                    break error;
                }
            };
            self.wait(&mut delays, &trouble).await?;
            replies = parts.replies;
        }
    }

    /// Until nothing is open any more, or so many orders have failed that it must be the book.
    async fn call_all<'a, T: About<Id = I>, R>(
        &self,
        parts: &mut Parts<'a, T, R>,
        delays: &mut Delays,
        call: &impl Fn(&'a [T]) -> BoxFuture<'a, Answer<R, I>>,
    ) -> Result<(), Interrupted> {
        while let Some(part) = parts.open.pop_front() {
            let tries = if parts.failures == 0 { BUSY_TRIES } else { 0 };
            let (begun, after_others) = (self.evidence.begin(), parts.some_done);
            match self.call(part, tries, delays, call).await? {
                Ok(reply) => {
                    if reply.items.values().any(|item| matches!(item, ItemReply::Done(_))) {
                        parts.some_done = true;
                        self.evidence.succeeded();
                    }
                    take(reply, part, &mut parts.replies);
                }
                Err(error) => {
                    parts.failures += 1;
                    match part {
                        [about] => parts.suspects.push(Suspect { about, error, begun, after_others }),
                        _ if self.patience.is_over() => return Err(Interrupted),
                        _ => parts.split(part),
                    }
                    if !parts.some_done && !parts.some_refused && parts.suspects.len() >= ALIKE {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Until the book answers; and while it says that it is busy, a few times more.
    async fn call<'a, T, R>(
        &self,
        part: &'a [T],
        mut tries: u32,
        delays: &mut Delays,
        call: &impl Fn(&'a [T]) -> BoxFuture<'a, Answer<R, I>>,
    ) -> Result<Answer<R, I>, Interrupted> {
        let mut pauses = BUSY.delays();
        loop {
            match call(part).await {
                Err(error @ (BookError::Away(_) | BookError::Misconfigured(_))) => self.wait(delays, &error).await?,
                Err(BookError::Busy(_)) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(pauses.next_delay()).await;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// They come again at each look.
    fn report_locked<R>(&self, replies: &Reply<R, I>) {
        let mut locked = replies.items.iter().filter_map(|(id, item)| match item {
            ItemReply::Locked(why) => Some((id, why)),
            _ => None,
        });
        if let Some((example, why)) = locked.next()
            && let Some(more) = self.warnings.lets_through("locked")
        {
            let count = locked.count() + 1;
            tracing::warn!(count, %example, why, more, "rows are in use; they are looked at again later");
        }
    }

    async fn wait(&self, delays: &mut Delays, error: &BookError) -> Result<(), Interrupted> {
        self.evidence.fails(&error.to_string());
        self.patience.pause(delays, self.trouble, error).await
    }

    /// Decides what becomes of orders about which calls fail; and, if every order fails alike, of those that were not
    /// tried. An error: every order is too slow, or the book too busy for any, and all are to be tried again.
    fn conclude<T: About<Id = I>, R>(&self, parts: &mut Parts<'_, T, R>) -> Option<BookError> {
        let failed: Vec<(&I, Begun)> =
            parts.suspects.iter().map(|suspect| (suspect.about.id(), suspect.begun)).collect();
        let faults = self.evidence.judge(&failed, parts.some_done);
        let alike = faults.contains(&Fault::Book);
        if alike && parts.suspects.iter().all(|suspect| !matches!(suspect.error, BookError::Refused(_))) {
            return parts.suspects.first().map(|suspect| suspect.error.clone());
        }
        if alike && let Some(Suspect { error, .. }) = parts.suspects.first() {
            let untried = parts.open.drain(..).flatten();
            for about in untried {
                self.evidence.remember(about.id());
                parts.replies.items.insert(about.id().clone(), ItemReply::Later(HOLD));
            }
            let count = parts.replies.items.len() + parts.suspects.len();
            tracing::error!(%error, count, "all fail alike; none is parked, and they are tried again and again");
            self.evidence.holds(&format!("all fail alike: {error}"));
        }
        for (Suspect { about, error, .. }, fault) in parts.suspects.drain(..).zip(faults) {
            let item = match (error, fault) {
                (BookError::Refused(_), Fault::Book) => ItemReply::Later(HOLD),
                (BookError::Refused(_), Fault::Unclear) => ItemReply::Later(UNCLEAR_HOLD),
                (BookError::Refused(detail), Fault::Order) => ItemReply::Refused(about.refusal(&detail)),
                (error, Fault::Order) => ItemReply::Locked(error.to_string()),
                _ => ItemReply::Later(BUSY_HOLD),
            };
            parts.replies.items.insert(about.id().clone(), item);
        }
        parts.some_refused = true;
        None
    }
}

impl<'a, T: About, R> Parts<'a, T, R> {
    fn new(whole: &'a [T], replies: Reply<R, T::Id>) -> Self {
        let open = if whole.is_empty() { VecDeque::new() } else { VecDeque::from([whole]) };
        Self { open, suspects: Vec::new(), failures: 0, some_done: false, some_refused: false, replies }
    }

    /// What failed before the first went through may have failed as all did at that moment: it is tried once more. Says
    /// whether there is any.
    fn give_another_chance(&mut self) -> bool {
        if !self.some_done {
            return false;
        }
        let (early, late): (Vec<_>, Vec<_>) = self.suspects.drain(..).partition(|suspect| !suspect.after_others);
        let is_any = !early.is_empty();
        self.suspects = late;
        self.open.extend(early.into_iter().map(|suspect| std::slice::from_ref(suspect.about)));
        is_any
    }

    /// Takes the place of a part that failed.
    fn split(&mut self, part: &'a [T]) {
        self.open.extend(part.chunks(part.len().div_ceil(SPLIT)));
        if self.failures == SAMPLE_AFTER_FAILURES && !self.some_done {
            // One of each part comes first.
            let (first, rest): (Vec<&[T]>, Vec<&[T]>) = self.open.drain(..).map(|part| part.split_at(1)).unzip();
            self.open = first.into_iter().chain(rest.into_iter().filter(|part| !part.is_empty())).collect();
        }
    }
}

/// Whether an error may be due to some of the orders, or to their number.
pub(crate) fn is_about_orders(error: &BookError) -> bool {
    !matches!(error, BookError::Away(_) | BookError::Misconfigured(_))
}

/// Adds a reply about a part to what is known: an item for each order of it, and for no other.
fn take<T: About, R>(mut reply: Reply<R, T::Id>, part: &[T], replies: &mut Reply<R, T::Id>) {
    replies.time = reply.time;
    for about in part {
        match reply.items.get_mut(about.id()) {
            Some(ItemReply::Refused(detail)) => *detail = about.refusal(detail),
            Some(_) => {}
            // Its outcome is not known.
            None => drop(reply.items.insert(about.id().clone(), ItemReply::Changed)),
        }
    }
    if reply.items.len() > part.len() {
        let asked: HashSet<&T::Id> = part.iter().map(About::id).collect();
        reply.items.retain(|id, _| asked.contains(id));
    }
    if replies.items.is_empty() {
        replies.items = reply.items;
    } else {
        replies.items.extend(reply.items);
    }
}

#[cfg(test)]
mod tests;
