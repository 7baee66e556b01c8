use std::collections::HashMap;
use std::time::Duration;

use book::{ItemReply, ServerTime};
use order::{Attempts, Deadline, OrderId, ParkReason, RetryReason, TimeoutId};
use retry::Policy;
use time::OffsetDateTime;

/// Between looks at a row that another transaction has locked.
const LOCKED: Policy = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

/// After so many looks, a quarter of an hour, one that stays locked is for a person.
const LOCKED_ATTEMPTS_MAX: u32 = 32;

/// How an order, or a timer, ended, in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Closed by us.
    Closed,
    /// Paid at its gateway, and recorded by us.
    Paid,
    /// It had ended before this payment came: the money goes back, or a person decides.
    Late,
    /// A timer that has fired.
    Fired,
    /// Paid, cancelled or closed before; of a timer: fired or cancelled before.
    Unchanged,
    /// Not due yet: to be looked at again then.
    Waiting(Deadline),
    /// Its gateway must be asked, by a pipeline that does.
    HandedOver(Deadline),
    /// Its gateway gave no clear answer, for this reason: to be asked again.
    Retried(RetryReason),
    /// Its gateway cannot be asked now, for this reason: to be asked again, with no attempt spent.
    Held(String),
    /// The database does not know it yet, or another transaction holds it: to be looked at again, with these attempts.
    LookAgain { attempts: Attempts, when: When },
    /// For a person.
    Parked { reason: ParkReason, detail: String },
}

/// The kinds of outcomes, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// Closed by us.
    Closed,
    /// Found paid at the gateway.
    Paid,
    /// Paid after it had ended.
    LatePayment,
    /// A timer that has fired.
    Fired,
    /// Settled before.
    Unchanged,
    /// Not due yet.
    Waiting,
    /// Handed over to the pipelines that ask gateways.
    HandedOver,
    /// Asked in vain.
    Retried,
    /// Not asked because its gateway cannot be asked.
    Held,
    /// To be looked at again.
    LookedAtAgain,
    /// Set aside for a person.
    Parked,
}

/// When an order is looked at again: not before an instant, and not before a back-off has passed. The back-off is varied at
/// random when the message is sent, so that many orders do not return at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) not_before: OffsetDateTime,
    /// Before it is varied, from the moment of the decision.
    pub(crate) back_off: Duration,
}

/// An order whose gateway is to be asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recheck {
    pub(crate) id: OrderId,
    pub(crate) deadline: Deadline,
    /// The attempts so far.
    pub(crate) attempts: Attempts,
    pub(crate) when: When,
}

/// How all orders, or timers, of a batch ended.
#[derive(Debug)]
pub(crate) struct Settled<I = OrderId> {
    pub(crate) outcomes: HashMap<I, Outcome>,
    pub(crate) rechecks: Vec<Recheck>,
    /// The book's time.
    pub(crate) time: ServerTime,
}

impl Outcome {
    /// What follows from what the database has replied about something that was to be changed; `None`: it is to be loaded again.
    pub(crate) fn of<R>(
        item: ItemReply<R>,
        attempts: &Attempts,
        now: OffsetDateTime,
        done: impl FnOnce(R) -> Option<Self>,
    ) -> Option<Self> {
        match item {
            ItemReply::Done(reply) => done(reply),
            ItemReply::Changed | ItemReply::Unknown => None,
            ItemReply::Locked(why) => Some(Self::look_again_when_free(attempts, why, now)),
            ItemReply::Later(wait) => Some(Self::LookAgain { attempts: attempts.clone(), when: When::at(now + wait) }),
            ItemReply::Refused(detail) => Some(Self::Parked { reason: ParkReason::RefusedByDatabase, detail }),
        }
    }

    /// Another transaction has the row locked, perhaps for long, or it takes long.
    pub(crate) fn look_again_when_free(attempts: &Attempts, why: String, now: OffsetDateTime) -> Self {
        let attempts = attempts.clone().plus(now, &RetryReason::Locked);
        if attempts.made >= LOCKED_ATTEMPTS_MAX {
            let detail = format!("{} attempts; the last: {why}", attempts.made);
            return Self::Parked { reason: ParkReason::StaysLocked, detail };
        }
        let when = When::backed_off(now, LOCKED.nominal(attempts.made));
        Self::LookAgain { attempts, when }
    }

    pub(crate) fn kind(&self) -> OutcomeKind {
        match self {
            Self::Closed => OutcomeKind::Closed,
            Self::Paid => OutcomeKind::Paid,
            Self::Late => OutcomeKind::LatePayment,
            Self::Fired => OutcomeKind::Fired,
            Self::Unchanged => OutcomeKind::Unchanged,
            Self::Waiting(_) => OutcomeKind::Waiting,
            Self::HandedOver(_) => OutcomeKind::HandedOver,
            Self::Retried(_) => OutcomeKind::Retried,
            Self::Held(_) => OutcomeKind::Held,
            Self::LookAgain { .. } => OutcomeKind::LookedAtAgain,
            Self::Parked { .. } => OutcomeKind::Parked,
        }
    }
}

impl OutcomeKind {
    /// Every kind, in the order of the variants.
    pub const ALL: [Self; 11] = [
        Self::Closed,
        Self::Paid,
        Self::LatePayment,
        Self::Fired,
        Self::Unchanged,
        Self::Waiting,
        Self::HandedOver,
        Self::Retried,
        Self::Held,
        Self::LookedAtAgain,
        Self::Parked,
    ];

    /// The value of the label `outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Paid => "paid",
            Self::LatePayment => "late_payment",
            Self::Fired => "fired",
            Self::Unchanged => "unchanged",
            Self::Waiting => "waiting",
            Self::HandedOver => "handed_over",
            Self::Retried => "retried",
            Self::Held => "held",
            Self::LookedAtAgain => "looked_at_again",
            Self::Parked => "parked",
        }
    }
}

impl When {
    /// At this instant.
    pub(crate) fn at(instant: OffsetDateTime) -> Self {
        Self { not_before: instant, back_off: Duration::ZERO }
    }

    /// After a back-off from now on.
    pub(crate) fn backed_off(now: OffsetDateTime, back_off: Duration) -> Self {
        Self { not_before: now, back_off }
    }

    /// About when, for comparisons.
    pub(crate) fn nominal(self) -> OffsetDateTime {
        self.not_before + self.back_off
    }
}

impl<I> Settled<I> {
    pub(crate) fn new(count: usize, time: ServerTime) -> Self {
        Self { outcomes: HashMap::with_capacity(count), rechecks: Vec::new(), time }
    }
}

impl Settled<TimeoutId> {
    /// The same, by names that all kinds of timeouts share.
    pub(crate) fn of<I: Into<TimeoutId>>(Settled { outcomes, rechecks, time }: Settled<I>) -> Self {
        Self { outcomes: outcomes.into_iter().map(|(id, outcome)| (id.into(), outcome)).collect(), rechecks, time }
    }
}
