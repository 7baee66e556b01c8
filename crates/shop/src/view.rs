use order::OrderId;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use crate::log::LogTuple;
use crate::{Item, LogRow, OrderError};

/// An order with its items and its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderView {
    /// Its ID.
    pub id: OrderId,
    /// Its status, as the table has it.
    pub status: String,
    /// In the smallest unit of the currency.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// When it falls due.
    pub payment_deadline: OffsetDateTime,
    /// Whether it is pending still although its deadline has passed: it is about to be closed, or to be found paid.
    pub overdue: bool,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was paid.
    pub paid_at: Option<OffsetDateTime>,
    /// When it was closed.
    pub closed_at: Option<OffsetDateTime>,
    /// The payment's ID at the gateway.
    pub transaction_id: Option<String>,
    /// Attempts to pay it at gateways, the oldest first.
    pub payments: Vec<PaymentView>,
    /// What is ordered.
    pub items: Vec<Item>,
    /// What happened to it, oldest first.
    pub log: Vec<LogRow>,
}

/// An attempt to pay an order at a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// When the attempt began.
    pub begun_at: OffsetDateTime,
    /// When it was paid, as the gateway says.
    pub paid_at: Option<OffsetDateTime>,
    /// When the sweep looks at it, if it is open once its order has ended.
    pub ask_at: OffsetDateTime,
    /// The state of its refund, if its money goes back: `requested`, `processing`, `succeeded` or `needs_person`.
    pub refund: Option<String>,
}

/// The same as a record of a query.
type PaymentTuple = (
    String,
    String,
    String,
    String,
    Option<String>,
    OffsetDateTime,
    Option<OffsetDateTime>,
    OffsetDateTime,
    Option<String>,
);

impl From<PaymentTuple> for PaymentView {
    fn from(payment: PaymentTuple) -> Self {
        let (gateway, trade_no, prepay, state, transaction_id, begun_at, paid_at, ask_at, refund) = payment;
        Self { gateway, trade_no, prepay, state, transaction_id, begun_at, paid_at, ask_at, refund }
    }
}

/// All of an order in one statement: one round trip, and what it says was true at one moment. Records carry only types that the
/// driver knows, whatever those of the columns are.
const SHOW: &str = "
    select status, amount_minor, currency,
           -- Times of infinity, which a shop's own table may hold, are cut: no clock on this side can hold them.
           greatest(least(payment_deadline, '9000-01-01Z'), '2000-01-01Z') as payment_deadline,
           status = 'pending' and payment_deadline <= clock_timestamp() as overdue,
           created_at, paid_at, closed_at, transaction_id,
           array(select row (p.gateway::text, p.trade_no::text, p.prepay::text, p.state::text, p.transaction_id::text,
                             greatest(least(p.created_at, '9000-01-01Z'), '2000-01-01Z'), p.paid_at, p.ask_at,
                             (select r.state::text from refunds r
                              where r.order_id = p.order_id and r.gateway = p.gateway and r.trade_no = p.trade_no
                              order by r.created_at limit 1))
                 from payments p where p.order_id = o.id and p.gateway <> 'none'
                 order by p.created_at, p.gateway, p.trade_no) as payments,
           array(select row (i.sku_id::text, i.quantity::bigint)
                 from order_items i where i.order_id = o.id order by i.sku_id) as items,
           array(select row (l.at::timestamptz, l.from_status::text, l.to_status::text, l.reason::text, l.actor::text,
                             l.operator_type::text, l.operator::text)
                 from order_log l where l.order_id = o.id order by l.id) as log
    from orders o where id = $1";

/// Looks an order up.
///
/// # Errors
/// [`OrderError::Unknown`], [`OrderError::Database`].
pub async fn show(connection: &mut PgConnection, id: &OrderId) -> Result<OrderView, OrderError> {
    let row = sqlx::query(SHOW).bind(id.as_str()).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| OrderError::Unknown(id.clone()))?;
    let payments: Vec<PaymentTuple> = row.try_get("payments")?;
    let items: Vec<(String, i64)> = row.try_get("items")?;
    let log: Vec<LogTuple> = row.try_get("log")?;
    Ok(OrderView {
        id: id.clone(),
        status: row.try_get("status")?,
        amount_minor: row.try_get("amount_minor")?,
        currency: row.try_get("currency")?,
        payment_deadline: row.try_get("payment_deadline")?,
        overdue: row.try_get("overdue")?,
        created_at: row.try_get("created_at")?,
        paid_at: row.try_get("paid_at")?,
        closed_at: row.try_get("closed_at")?,
        transaction_id: row.try_get("transaction_id")?,
        payments: payments.into_iter().map(PaymentView::from).collect(),
        items: items.into_iter().map(|(sku, quantity)| Item { sku, quantity }).collect(),
        log: log.into_iter().map(LogRow::from).collect(),
    })
}
