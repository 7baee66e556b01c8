//! What calls have shown of what is at the other end.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use book::{BookError, ServerTime};
use futures_util::future::BoxFuture;
use moka::sync::Cache;
use order::OrderId;

use crate::patience::{Interrupted, Patience};

/// What calls go to.
pub(crate) trait Ready: Sync {
    /// Whether any call can be made, whatever it is about.
    fn ready(&self) -> BoxFuture<'_, Result<ServerTime, BookError>>;
}

/// What calls of one kind have shown: whether it is the order, or the timer, or the book that is at fault when a call
/// fails. An error's code does not tell, since a trigger may raise any; what succeeds beside it does.
#[derive(Clone)]
pub(crate) struct Evidence<I = OrderId> {
    state: Arc<Mutex<State<I>>>,
    /// Orders that have failed without anything that went through beside them.
    failed: Cache<I, Failed>,
}

#[derive(Debug)]
struct State<I> {
    succeeded_at: Option<Instant>,
    /// Orders that have failed since then, at most [`ALIKE`].
    failed_since: HashSet<I>,
    trouble: Option<Trouble>,
    /// Whether orders are held back because nothing goes through.
    is_holding: bool,
}

/// When a call began, and what had gone through before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    at: Instant,
    succeeded_before: Option<Instant>,
}

/// When an order failed first, and how often it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed {
    first: Instant,
    times: u32,
}

/// What is wrong with the book.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    pub(crate) since: Instant,
    /// When it was last met.
    met_at: Instant,
}

/// Whose fault it is that a call about an order fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The order's own: others go through, or it has failed again and again while few others did.
    Order,
    /// It is not known yet: too few have failed to say.
    Unclear,
    /// Every order fails alike.
    Book,
}

/// When so many orders have failed and none went through, the book is at fault.
pub(crate) const ALIKE: usize = 8;

/// After so many failures an order is at fault, unless others have failed, too.
const FAILURES_MAX: u32 = 3;

/// How many orders are remembered that have failed, and for how long.
const REMEMBERED_MAX: u64 = 100_000;
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// After so long without being met again a trouble is over. Whoever waits for a book tries again much sooner.
const TROUBLE_LASTS: Duration = Duration::from_mins(1);

/// How long a pipeline rests after each batch while nothing goes through.
const REST: Duration = Duration::from_secs(1);

impl<I> Default for State<I> {
    fn default() -> Self {
        Self { succeeded_at: None, failed_since: HashSet::new(), trouble: None, is_holding: false }
    }
}

impl<I: Eq + Hash + Send + Sync + 'static> Default for Evidence<I> {
    fn default() -> Self {
        let failed = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(REMEMBERED_FOR).build();
        Self { state: Arc::default(), failed }
    }
}

impl<I: Clone + Eq + Hash + Send + Sync + 'static> Evidence<I> {
    /// How long to rest before the next are tried; `None`: not at all.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        self.state().is_holding.then_some(REST)
    }

    /// What is wrong; `None`: nothing that is known.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.state().trouble.clone().filter(|trouble| trouble.met_at.elapsed() < TROUBLE_LASTS)
    }

    /// A call begins. If it fails, and others go through, that tells something of its orders only where it began after
    /// those.
    pub(crate) fn begin(&self) -> Begun {
        Begun { at: Instant::now(), succeeded_before: self.state().succeeded_at }
    }

    /// A call about some of them went through.
    pub(crate) fn succeeded(&self) {
        let mut state = self.state();
        if state.is_holding {
            tracing::info!("what was held back goes through again");
        }
        *state = State { succeeded_at: Some(Instant::now()), ..State::default() };
    }

    /// A call about no order works again. That says nothing of orders.
    pub(crate) fn works(&self) {
        let mut state = self.state();
        if !state.is_holding {
            state.trouble = None;
        }
    }

    /// Waits until calls can be made, whatever they are about; `trouble` is what the log says meanwhile. Returns the
    /// database's time, if it tells.
    pub(crate) async fn wait_until_ready(
        &self,
        to: &dyn Ready,
        patience: &Patience,
        trouble: &str,
    ) -> Result<Option<ServerTime>, Interrupted> {
        let is_answer = |error: &BookError| matches!(error, BookError::Slow(_) | BookError::Busy(_));
        let ready = || async {
            let ready = to.ready().await;
            match &ready {
                Ok(_) => self.works(),
                Err(error) => self.fails(&error.to_string()),
            }
            ready
        };
        patience.until(trouble, is_answer, ready).await.map(Result::ok)
    }

    /// Calls fail for this reason, whatever the order.
    pub(crate) fn fails(&self, why: &str) {
        let mut state = self.state();
        let now = Instant::now();
        let since = state.trouble.as_ref().map_or(now, |trouble| trouble.since);
        state.trouble = Some(Trouble { text: why.to_owned(), since, met_at: now });
    }

    /// Orders are held back for this reason.
    pub(crate) fn holds(&self, why: &str) {
        self.fails(why);
        self.state().is_holding = true;
    }

    /// Whose fault it is that calls about these orders fail; each comes with the begin of its last call.
    /// `others_went_through`: whether orders that came with them went through before that.
    pub(crate) fn judge(&self, failed: &[(&I, Begun)], others_went_through: bool) -> Vec<Fault> {
        if others_went_through {
            failed.iter().for_each(|(id, _)| self.failed.invalidate(*id));
            return vec![Fault::Order; failed.len()];
        }
        let (succeeded_at, alike) = {
            let mut state = self.state();
            let room = ALIKE - state.failed_since.len().min(ALIKE);
            let ids = failed.iter().map(|(id, _)| *id);
            let others: Vec<I> = ids.filter(|id| !state.failed_since.contains(*id)).take(room).cloned().collect();
            state.failed_since.extend(others);
            (state.succeeded_at, state.failed_since.len() >= ALIKE)
        };
        let judged = failed.iter().map(|(id, begun)| {
            let Failed { first, times } = self.remember(id);
            let gone_through_since = begun.succeeded_before.is_some_and(|at| at > first);
            // Something has gone through since the call began: what made it fail may be over.
            let is_outdated = succeeded_at.is_some_and(|at| at > begun.at);
            if gone_through_since || (!alike && !is_outdated && times >= FAILURES_MAX) {
                self.failed.invalidate(*id);
                Fault::Order
            } else if alike {
                Fault::Book
            } else {
                Fault::Unclear
            }
        });
        judged.collect()
    }

    /// The order failed, and nothing went through beside it.
    pub(crate) fn remember(&self, id: &I) -> Failed {
        let failed = match self.failed.get(id) {
            Some(Failed { first, times }) => Failed { first, times: times + 1 },
            None => Failed { first: Instant::now(), times: 1 },
        };
        self.failed.insert(id.clone(), failed);
        failed
    }

    fn state(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<OrderId> {
        (0..count).map(|number| OrderId::new(&format!("o-{number}")).unwrap()).collect()
    }

    fn judge(evidence: &Evidence, ids: &[OrderId], others: bool) -> Vec<Fault> {
        judge_of(evidence, evidence.begin(), ids, others)
    }

    /// Of a call that began then.
    fn judge_of(evidence: &Evidence, begun: Begun, ids: &[OrderId], others: bool) -> Vec<Fault> {
        evidence.judge(&ids.iter().map(|id| (id, begun)).collect::<Vec<_>>(), others)
    }

    #[test]
    fn an_order_is_at_fault_when_others_go_through_beside_it() {
        let evidence: Evidence = Evidence::default();
        let many = ids(20);
        assert!(judge(&evidence, &many, true).iter().all(|fault| *fault == Fault::Order));
        assert_eq!(judge(&evidence, &many[..1], false), [Fault::Unclear], "one alone may be either");
        assert_eq!(judge(&evidence, &many[..1], false), [Fault::Unclear]);
        assert_eq!(judge(&evidence, &many[..1], false), [Fault::Order], "it alone has failed again and again");
    }

    #[test]
    fn where_every_order_fails_the_book_is_at_fault_until_one_goes_through() {
        let evidence: Evidence = Evidence::default();
        let many = ids(20);
        assert!(judge(&evidence, &many, false).iter().all(|fault| *fault == Fault::Book));
        assert!(judge(&evidence, &many, false).iter().all(|fault| *fault == Fault::Book), "still");
        evidence.succeeded();
        assert!(
            judge(&evidence, &many, false).iter().all(|fault| *fault == Fault::Order),
            "another went through since"
        );
        let others: Vec<OrderId> = (0..20).map(|number| OrderId::new(&format!("n-{number}")).unwrap()).collect();
        assert!(judge(&evidence, &others, false).iter().all(|fault| *fault == Fault::Book), "a new trouble");
    }

    #[test]
    fn a_call_that_began_before_others_went_through_blames_nobody() {
        let evidence: Evidence = Evidence::default();
        let many = ids(20);
        assert!(judge(&evidence, &many, false).iter().all(|fault| *fault == Fault::Book));
        // Again and again, and it is mended while the last calls are under way.
        let few = &many[..3];
        judge(&evidence, few, false);
        let begun = evidence.begin();
        evidence.succeeded();
        assert_eq!(judge_of(&evidence, begun, few, false), [Fault::Unclear; 3]);
        assert_eq!(judge(&evidence, few, false), [Fault::Order; 3], "and now they fail beside others");
    }

    #[test]
    fn orders_that_come_one_by_one_are_counted() {
        let evidence: Evidence = Evidence::default();
        let faults: Vec<Fault> = ids(9).chunks(1).flat_map(|one| judge(&evidence, one, false)).collect();
        assert_eq!(faults[..ALIKE - 1], [Fault::Unclear; ALIKE - 1]);
        assert_eq!(faults[ALIKE - 1..], [Fault::Book; 2]);
    }

    #[test]
    fn trouble_is_known_from_its_beginning_and_ends_when_a_call_goes_through() {
        let evidence: Evidence = Evidence::default();
        evidence.fails("no right");
        let since = evidence.state().trouble.clone().unwrap().since;
        evidence.holds("no right, still");
        let trouble = evidence.state().trouble.clone().unwrap();
        assert_eq!((trouble.text.as_str(), trouble.since), ("no right, still", since));
        evidence.succeeded();
        assert!(evidence.state().trouble.is_none() && !evidence.state().is_holding);
    }
}
