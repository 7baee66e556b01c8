use std::fmt;
use std::str::FromStr;

/// Why a message, or one order of it, is set aside for a person. The table of `docs/runbook.md` lists every reason with
/// the same advice; a test compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParkReason {
    /// The body is larger than a message may be.
    TooLarge,
    /// The body is not UTF-8.
    NotUtf8,
    /// The body begins like a JSON object but is not valid JSON.
    NotJson,
    /// The body has a version that this program does not know.
    UnknownVersion,
    /// The message names no orders.
    NoOrders,
    /// The message names more orders than a message may.
    TooManyOrders,
    /// An entry has another form than `{"id":"…","due":"…"}`.
    MalformedEntry,
    /// An order ID has other characters than an ID may have, or too many.
    IllegalOrderId,
    /// A timer's name is not of the form `<kind>:<subject>`, or has other characters than it may have, or too many.
    IllegalTimerId,
    /// A command to arm or cancel a timer has another form than it may have, or a value that cannot be.
    IllegalCommand,
    /// The routing key names a kind of timeout that this version does not know.
    UnknownKind,
    /// No lane, or no due queue, is bound for the routing key.
    Unroutable,
    /// Workers took the message as often as the queue allows and never acked it.
    DeliveryLimit,
    /// The order book has no such order, also after several attempts.
    UnknownOrder,
    /// There is no such timer, also after several attempts.
    UnknownTimer,
    /// Timers of this kind are not among those that are expected here.
    UnexpectedTimer,
    /// The order's row cannot be read.
    UnreadableOrder,
    /// The database refuses to change the order, or the timer.
    RefusedByDatabase,
    /// The order, or stock of it, or the timer stays locked, or takes too long to change, at every attempt.
    StaysLocked,
    /// The order stays pending although the database accepts the change.
    NotClosed,
    /// The gateway gave no clear answer in all attempts.
    PaymentUnknown,
    /// What was paid is not what was to be paid.
    PaymentMismatch,
    /// The trade was refunded at the gateway, and not by this program.
    RefundedAtGateway,
    /// The gateway had confirmed the trade and now denies it.
    TradeMissing,
    /// The gateway's trades cannot have such a number.
    IllegalTradeNo,
    /// The order is for nothing, and a gateway takes no payments of nothing.
    NothingToPay,
    /// An event in the outbox has more data than a message may have.
    EventTooLarge,
    /// An endpoint has not taken an event in all attempts.
    WebhookExhausted,
    /// An endpoint says that it will never take an event.
    WebhookRefused,
}

/// A reason that this version does not know, such as one of the broker's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no reason of this version for parking a message")]
pub struct UnknownReason(pub String);

impl ParkReason {
    /// Every reason.
    pub const ALL: [Self; 29] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
        Self::UnknownVersion,
        Self::NoOrders,
        Self::TooManyOrders,
        Self::MalformedEntry,
        Self::IllegalOrderId,
        Self::IllegalTimerId,
        Self::IllegalCommand,
        Self::UnknownKind,
        Self::Unroutable,
        Self::DeliveryLimit,
        Self::UnknownOrder,
        Self::UnknownTimer,
        Self::UnexpectedTimer,
        Self::UnreadableOrder,
        Self::RefusedByDatabase,
        Self::StaysLocked,
        Self::NotClosed,
        Self::PaymentUnknown,
        Self::PaymentMismatch,
        Self::RefundedAtGateway,
        Self::TradeMissing,
        Self::IllegalTradeNo,
        Self::NothingToPay,
        Self::EventTooLarge,
        Self::WebhookExhausted,
        Self::WebhookRefused,
    ];

    /// A short, stable name for headers, counters and scripts.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::UnknownVersion => "unknown_version",
            Self::NoOrders => "no_orders",
            Self::TooManyOrders => "too_many_orders",
            Self::MalformedEntry => "malformed_entry",
            Self::IllegalOrderId => "illegal_order_id",
            Self::IllegalTimerId => "illegal_timer_id",
            Self::IllegalCommand => "illegal_command",
            Self::UnknownKind => "unknown_kind",
            Self::Unroutable => "unroutable",
            Self::DeliveryLimit => "delivery_limit",
            Self::UnknownOrder => "unknown_order",
            Self::UnknownTimer => "unknown_timer",
            Self::UnexpectedTimer => "unexpected_timer",
            Self::UnreadableOrder => "unreadable_order",
            Self::RefusedByDatabase => "refused_by_database",
            Self::StaysLocked => "stays_locked",
            Self::NotClosed => "not_closed",
            Self::PaymentUnknown => "payment_unknown",
            Self::PaymentMismatch => "payment_mismatch",
            Self::RefundedAtGateway => "refunded_at_gateway",
            Self::TradeMissing => "trade_missing",
            Self::IllegalTradeNo => "illegal_trade_no",
            Self::NothingToPay => "nothing_to_pay",
            Self::EventTooLarge => "event_too_large",
            Self::WebhookExhausted => "webhook_exhausted",
            Self::WebhookRefused => "webhook_refused",
        }
    }

    /// Whether the reason is gone once the orders, or timers, of the message have settled in another way.
    fn ends_with_its_orders(self) -> bool {
        matches!(
            self,
            Self::UnknownOrder
                | Self::UnknownTimer
                | Self::UnexpectedTimer
                | Self::UnreadableOrder
                | Self::RefusedByDatabase
                | Self::StaysLocked
                | Self::NotClosed
                | Self::PaymentUnknown
                | Self::PaymentMismatch
                | Self::RefundedAtGateway
                | Self::TradeMissing
                | Self::IllegalTradeNo
                | Self::NothingToPay
        )
    }

    /// The codes of all reasons that are gone then.
    pub fn codes_that_end_with_their_orders() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(|reason| reason.ends_with_its_orders()).map(Self::code)
    }

    /// What to do about it, in the imperative.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::TooLarge
            | Self::NotUtf8
            | Self::NotJson
            | Self::UnknownVersion
            | Self::NoOrders
            | Self::TooManyOrders
            | Self::MalformedEntry
            | Self::IllegalOrderId
            | Self::IllegalTimerId
            | Self::IllegalCommand => "Correct the publisher, have it publish again, then drop the message.",
            Self::UnknownKind => {
                "Deploy a version that knows this kind, then requeue. If the kind is a typing error, correct the publisher, have it publish again, then drop the message."
            }
            Self::Unroutable => {
                "Run `overdue topology declare`, or correct the lane in the publisher's routing key, then requeue."
            }
            Self::DeliveryLimit => "Look in the workers' logs for what breaks them, mend it, then requeue.",
            Self::UnknownOrder => {
                "See whether the order was ever committed; if it was, requeue, else drop the message."
            }
            Self::UnknownTimer => {
                "See whether the timer was ever armed (`overdue timer show`); if it is armed, requeue, else drop the message."
            }
            Self::UnexpectedTimer => {
                "Add the kind to OVERDUE_TIMER_KINDS of every process, then requeue. If it is a typing error, arm the right timer, cancel this one (`overdue timer cancel`), then drop the message."
            }
            Self::UnreadableOrder | Self::RefusedByDatabase => "Correct the row that the detail names, then requeue.",
            Self::StaysLocked => {
                "Find the session that holds the row or its stock locked, or the trigger that is slow, mend it, then requeue."
            }
            Self::NotClosed => "Find the trigger or the policy that keeps the row from changing, then requeue.",
            Self::PaymentUnknown => "Look at the trade at the gateway and at the attempts, then requeue.",
            Self::PaymentMismatch | Self::RefundedAtGateway => {
                "Look at the trade at the gateway and at `overdue refunds list --state needs_person`, settle the order by hand, then drop the message."
            }
            Self::TradeMissing | Self::IllegalTradeNo => {
                "Set `state = 'closed'` of the wrong row in `payments`, insert the right one, then requeue."
            }
            Self::NothingToPay => {
                "Mark the order as paid or cancel it, or correct its amount or its gateway and requeue. Then drop the message."
            }
            Self::WebhookExhausted => {
                "See that the endpoint works, then requeue: `overdue parked requeue --endpoint NAME`."
            }
            Self::WebhookRefused => {
                "Look in the endpoint's log for why it refuses the event, mend it and requeue, or drop the message."
            }
            Self::EventTooLarge => "Shorten what the event tells, tell its subscribers by hand, then drop the message.",
        }
    }
}

impl FromStr for ParkReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.code() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

impl fmt::Display for ParkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
