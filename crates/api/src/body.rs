//! The JSON of requests and answers. Field names, here and there, are those of `docs/api.openapi.json`.

use std::time::Duration;

use order::{Deadline, OrderId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// An order that is to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateOrder {
    /// 1 to 64 characters of `A-Z a-z 0-9 . _ : -`, and not one dot or two alone.
    #[schema(pattern = "^(?!\\.{1,2}$)[A-Za-z0-9._:-]{1,64}$")]
    pub(crate) id: String,
    /// What is ordered; at least one line.
    #[schema(min_items = 1)]
    pub(crate) items: Vec<Item>,
    /// What is to be paid, in the currency's smallest unit.
    #[schema(minimum = 0)]
    pub(crate) amount_minor: i64,
    /// Three capital letters (ISO 4217).
    #[schema(pattern = "^[A-Z]{3}$")]
    pub(crate) currency: String,
    /// The gateway where it is to be paid, such as `wechat`; none: the shop itself marks it as paid.
    pub(crate) gateway: Option<String>,
    /// How long the customer has to pay, in seconds, up to ten years; half an hour by default.
    #[schema(minimum = 1, maximum = 315619200)]
    pub(crate) payment_timeout_s: Option<u64>,
}

/// That an order was paid.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pay {
    /// The payment's ID at the gateway: at most 255 bytes.
    #[schema(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,255}$")]
    pub(crate) transaction_id: Option<String>,
}

/// That an order is to be closed now, by whom and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Close {
    /// The role in which the person acts: `merchant`, `customer`, `support` and so on.
    pub(crate) operator_type: String,
    /// The person.
    pub(crate) operator: String,
    /// Why; kept in the order's log.
    pub(crate) reason: String,
}

/// That an order may be paid for longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extend {
    /// The new deadline, in RFC 3339 form.
    #[schema(format = DateTime)]
    pub(crate) payment_deadline: String,
    /// Why; kept in the order's log.
    pub(crate) reason: Option<String>,
    /// The role of the person who has it done.
    pub(crate) operator_type: Option<String>,
    /// That person.
    pub(crate) operator: Option<String>,
}

/// A quantity of one SKU.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// The stock-keeping unit.
    #[schema(min_length = 1)]
    pub sku: String,
    /// How many; at least 1.
    #[schema(minimum = 1)]
    pub quantity: i64,
}

/// An order with its items and its log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OrderView {
    /// Its ID.
    pub id: String,
    /// `pending`, `paid`, `cancelled` or `closed`.
    pub status: String,
    /// In the smallest unit of the currency.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// When it falls due.
    pub payment_deadline: String,
    /// Whether it is pending still although its deadline has passed: it is about to be closed, or to be found paid.
    pub overdue: bool,
    /// When it was created.
    pub created_at: String,
    /// When it was paid.
    pub paid_at: Option<String>,
    /// When it was closed.
    pub closed_at: Option<String>,
    /// The payment's ID at the gateway.
    pub transaction_id: Option<String>,
    /// Attempts to pay it at gateways, the oldest first.
    pub payments: Vec<PaymentView>,
    /// What is ordered.
    pub items: Vec<Item>,
    /// What happened to it, oldest first.
    pub log: Vec<LogEntry>,
}

/// An attempt to pay an order at a gateway.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PaymentView {
    /// The gateway.
    pub gateway: String,
    /// The number of the trade there.
    pub trade_no: String,
    /// How far the shop got with telling the gateway: `none`, `attempted` or `created`.
    pub prepay: String,
    /// `open`, `paid` or `closed`.
    pub state: String,
    /// The gateway's own number of the payment, once it was paid.
    pub transaction_id: Option<String>,
    /// The state of its refund, if its money goes back: `requested`, `processing`, `succeeded` or `needs_person`.
    pub refund: Option<String>,
}

/// One row of an order's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogEntry {
    /// When, by the database's clock.
    pub at: String,
    /// The status before; null at its creation.
    pub from: Option<String>,
    /// The status after.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Which part of the program, or which service, did it.
    pub actor: String,
    /// The role in which a person had it done: `merchant`, `customer`, `support` and so on.
    pub operator_type: Option<String>,
    /// That person.
    pub operator: Option<String>,
}

/// What happened to an order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timeline {
    pub(crate) order_id: String,
    /// Oldest first.
    pub(crate) entries: Vec<TimelineEntry>,
}

/// Something that happened to an order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TimelineEntry {
    /// When, by the database's clock.
    pub at: String,
    /// What: `created`, `deadline moved`, `paid`, `cancelled`, `closed`, `refund recorded`, `refund succeeded`,
    /// `trade not found`, `timer armed`, `timer fired`, `timer cancelled`.
    pub what: String,
    /// Why, or more of it.
    pub detail: String,
    /// Who did it: a part of the program, a service, or a gateway; of a timer: `timers`.
    pub actor: String,
    /// The person who had it done, if one had: `merchant alice`.
    pub operator: Option<String>,
}

/// A timer that is to be armed. `due_at` or `after_s`, one of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArmTimer {
    /// When it fires, in RFC 3339 form, between the years 2000 and 9000. In the past: at once.
    #[schema(format = DateTime)]
    pub(crate) due_at: Option<String>,
    /// In how many seconds it fires; 0: at once.
    #[schema(minimum = 0, maximum = 315619200)]
    pub(crate) after_s: Option<f64>,
    /// Any JSON of at most 8,192 bytes. It goes along with the timer's event as it is.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) data: Option<Box<RawValue>>,
}

/// A timer.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimerView {
    /// What it is about.
    pub kind: String,
    /// Whose it is.
    pub subject: String,
    /// `armed`, `fired` or `cancelled`.
    pub state: String,
    /// When it fires, or was to.
    pub due_at: String,
    /// Rises each time that it is armed anew, moved, or given other data.
    pub revision: i64,
    /// What goes along with its event.
    #[schema(value_type = Option<serde_json::Value>)]
    pub data: Option<Box<RawValue>>,
    /// When it fired.
    pub fired_at: Option<String>,
    /// When it was first armed.
    pub created_at: String,
    /// When it was armed, moved, fired or cancelled last.
    pub changed_at: String,
}

/// Timers, those that are due first first.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimerList {
    /// At most 1,000.
    pub timers: Vec<TimerView>,
}

/// How long a customer has to pay by default.
const PAYMENT_TIMEOUT: Duration = Duration::from_mins(30);

impl CreateOrder {
    /// The order, as the order service takes it.
    pub(crate) fn into_new(self, id: OrderId) -> shop::NewOrder {
        let item = |Item { sku, quantity }| shop::Item { sku, quantity };
        shop::NewOrder {
            id,
            amount_minor: self.amount_minor,
            currency: self.currency,
            items: self.items.into_iter().map(item).collect(),
            gateway: self.gateway,
            payment_timeout: self.payment_timeout_s.map_or(PAYMENT_TIMEOUT, Duration::from_secs),
        }
    }
}

impl From<shop::OrderView> for OrderView {
    fn from(view: shop::OrderView) -> Self {
        Self {
            id: view.id.to_string(),
            status: view.status,
            amount_minor: view.amount_minor,
            currency: view.currency,
            payment_deadline: text(view.payment_deadline),
            overdue: view.overdue,
            created_at: text(view.created_at),
            paid_at: view.paid_at.map(text),
            closed_at: view.closed_at.map(text),
            transaction_id: view.transaction_id,
            payments: view.payments.into_iter().map(PaymentView::from).collect(),
            items: view.items.into_iter().map(|shop::Item { sku, quantity }| Item { sku, quantity }).collect(),
            log: view.log.into_iter().map(LogEntry::from).collect(),
        }
    }
}

impl From<shop::PaymentView> for PaymentView {
    fn from(view: shop::PaymentView) -> Self {
        let shop::PaymentView { gateway, trade_no, prepay, state, transaction_id, refund, .. } = view;
        Self { gateway, trade_no, prepay, state, transaction_id, refund }
    }
}

impl From<shop::LogRow> for LogEntry {
    fn from(row: shop::LogRow) -> Self {
        let shop::LogRow { at, from_status, to_status, reason, actor, operator_type, operator } = row;
        Self { at: text(at), from: from_status, to: to_status, reason, actor, operator_type, operator }
    }
}

impl From<shop::TimelineEntry> for TimelineEntry {
    fn from(entry: shop::TimelineEntry) -> Self {
        let shop::TimelineEntry { at, what, detail, actor, operator } = entry;
        Self { at: text(at), what, detail, actor, operator }
    }
}

impl From<outbox::Timer> for TimerView {
    fn from(timer: outbox::Timer) -> Self {
        Self {
            kind: timer.id.kind().to_owned(),
            subject: timer.id.subject().to_owned(),
            state: timer.state.to_string(),
            due_at: text(timer.due_at),
            revision: timer.revision,
            // The database has it as JSON.
            data: timer.data.and_then(|data| RawValue::from_string(data).ok()),
            fired_at: timer.fired_at.map(text),
            created_at: text(timer.created_at),
            changed_at: text(timer.changed_at),
        }
    }
}

/// RFC 3339, in UTC.
fn text(at: OffsetDateTime) -> String {
    Deadline::at(at).to_string()
}
