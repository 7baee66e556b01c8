use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use database::ServerTime;
use order::{OrderId, PaymentFacts, Prepay};
use time::OffsetDateTime;
use tokio_postgres::Row;
use trace::TraceParent;

use super::lock::{Columns, locked};
use crate::{Actor, BookResult, Closed, Closing, ItemReply, Reply};

pub(super) static SQL: LazyLock<String> = LazyLock::new(|| composed(include_str!("settle.sql")));

/// A statement with the parts that several have, in the place of their names.
pub(super) fn composed(statement: &str) -> String {
    with_announcement(statement).replace("-- stock.sql", include_str!("stock.sql"))
}

/// A statement that announces the rows of its part `events`.
pub(crate) fn with_announcement(statement: &str) -> String {
    statement.replace("-- announce.sql", include_str!("announce.sql"))
}

pub(super) fn columns<'a>(
    by: &'a Actor,
    trace: Option<&'a TraceParent>,
) -> impl for<'w> Fn(&'w [Closing]) -> Columns<'w> {
    let (by, trace) = (by.clone(), trace.map(|trace| trace.as_str().to_owned()));
    move |closings: &[Closing]| {
        let operator = by.operator.as_ref();
        vec![
            Box::new(closings.iter().map(|closing| closing.id.as_str()).collect::<Vec<&str>>()),
            Box::new(closings.iter().map(|closing| closing.deadline.instant()).collect::<Vec<OffsetDateTime>>()),
            Box::new(closings.iter().map(idempotency_key).collect::<Vec<String>>()),
            Box::new(by.name.clone()),
            Box::new(closings.iter().map(|closing| keys(&closing.payments)).collect::<Vec<_>>()),
            Box::new(by.reason.clone()),
            Box::new(operator.map(|person| person.kind.clone())),
            Box::new(operator.map(|person| person.name.clone())),
            Box::new(
                closings.iter().map(|closing| closing.recheck.map(|after| after.as_secs_f64())).collect::<Vec<_>>(),
            ),
            Box::new(trace.clone()),
        ]
    }
}

pub(super) fn reply(rows: &[Row], held: Vec<OrderId>) -> BookResult<Closed> {
    let mut items = HashMap::with_capacity(rows.len());
    for row in rows {
        // It is one of those that were sent.
        let Ok(id) = OrderId::new(row.try_get("id")?) else { continue };
        let lateness = Duration::try_from_secs_f64(row.try_get("late_s")?).unwrap_or_default();
        let without_stock = row.try_get("without_stock")?;
        items.insert(id, ItemReply::Done(Closed { lateness, without_stock }));
    }
    let now = rows.last().map_or(Ok(OffsetDateTime::UNIX_EPOCH), |row| row.try_get("closed_at"))?;
    items.extend(held.into_iter().map(|id| (id, locked())));
    Ok(Reply { time: ServerTime::from(now), items })
}

/// The same for every attempt to close this order on this deadline.
fn idempotency_key(closing: &Closing) -> String {
    format!("payment-timeout:{}:{}", closing.id, closing.deadline)
}

/// Payments as `settle.sql` compares them: gateway, trade number and prepay of each, with separators that none of them has.
fn keys(payments: &[PaymentFacts]) -> Option<String> {
    let key =
        |payment: &PaymentFacts| [&payment.gateway, &payment.trade_no, prepay_name(payment.prepay)].join("\u{1f}");
    (!payments.is_empty()).then(|| payments.iter().map(key).collect::<Vec<_>>().join("\u{1e}"))
}

fn prepay_name(prepay: Prepay) -> &'static str {
    match prepay {
        Prepay::None => "none",
        Prepay::Attempted => "attempted",
        Prepay::Created => "created",
    }
}
