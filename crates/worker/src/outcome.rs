use std::collections::HashMap;
use std::time::Duration;

use book::ServerTime;
use order::{Attempts, Deadline, OrderId, ParkReason, RetryReason};
use time::OffsetDateTime;

/// How an order ended, in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Closed by us.
    Closed,
    /// Paid at its gateway, and recorded by us.
    Paid,
    /// It had ended before this payment came: the money goes back, or a person decides.
    Late,
    /// Paid, cancelled or closed before.
    Unchanged,
    /// Not due yet: to be looked at again then.
    Waiting(Deadline),
    /// Its gateway must be asked, by a pipeline that does.
    HandedOver(Deadline),
    /// Its gateway gave no clear answer, for this reason: to be asked again.
    Retried(RetryReason),
    /// Its gateway cannot be asked now, for this reason: to be asked again, with no attempt spent.
    Held(String),
    /// The book does not know it yet, or another transaction holds it: to be looked at again, with these attempts.
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

/// How all orders of a batch ended.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) outcomes: HashMap<OrderId, Outcome>,
    pub(crate) rechecks: Vec<Recheck>,
    /// The book's time.
    pub(crate) time: ServerTime,
}

impl Outcome {
    pub(crate) fn kind(&self) -> OutcomeKind {
        match self {
            Self::Closed => OutcomeKind::Closed,
            Self::Paid => OutcomeKind::Paid,
            Self::Late => OutcomeKind::LatePayment,
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
    pub const ALL: [Self; 10] = [
        Self::Closed,
        Self::Paid,
        Self::LatePayment,
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

impl Settled {
    pub(crate) fn new(orders: usize, time: ServerTime) -> Self {
        Self { outcomes: HashMap::with_capacity(orders), rechecks: Vec::new(), time }
    }
}
