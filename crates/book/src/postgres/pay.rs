use std::collections::HashMap;
use std::sync::LazyLock;

use database::ServerTime;
use order::OrderId;
use time::OffsetDateTime;
use tokio_postgres::Row;
use trace::TraceParent;

use super::lock::{Columns, locked};
use super::settle::composed;
use crate::{Actor, BookError, BookResult, Credited, ItemReply, Payment, Reply};

pub(super) static SQL: LazyLock<String> = LazyLock::new(|| composed(include_str!("pay.sql")));

pub(super) fn columns<'a>(
    by: &'a Actor,
    trace: Option<&'a TraceParent>,
) -> impl for<'w> Fn(&'w [Payment]) -> Columns<'w> {
    let (by, trace) = (by.name.clone(), trace.map(|trace| trace.as_str().to_owned()));
    move |payments: &[Payment]| {
        let texts = |of: fn(&Payment) -> &str| Box::new(payments.iter().map(of).collect::<Vec<&str>>());
        vec![
            texts(|payment| payment.id.as_str()),
            texts(|payment| &payment.receipt.transaction_id),
            Box::new(payments.iter().map(|payment| payment.receipt.paid_at).collect::<Vec<Option<OffsetDateTime>>>()),
            Box::new(payments.iter().map(idempotency_key).collect::<Vec<String>>()),
            texts(|payment| &payment.gateway),
            texts(|payment| &payment.trade_no),
            Box::new(payments.iter().map(|payment| payment.receipt.amount.minor).collect::<Vec<i64>>()),
            texts(|payment| &payment.receipt.amount.currency),
            texts(|payment| &payment.refund_no),
            Box::new(by.clone()),
            Box::new(trace.clone()),
            texts(|payment| &payment.further_refund_no),
            Box::new(payments.iter().map(|payment| payment.receipt.combined).collect::<Vec<bool>>()),
        ]
    }
}

pub(super) fn reply(rows: &[Row], held: Vec<OrderId>) -> BookResult<Credited> {
    let mut items = HashMap::with_capacity(rows.len());
    for row in rows {
        let credited = match row.try_get("outcome")? {
            "paid" => Credited::Paid,
            "late" => Credited::Late,
            "already" => Credited::Already,
            "twice" => Credited::Twice,
            "disputed" => Credited::Disputed,
            "shared" => Credited::Shared,
            "unchanged" => Credited::Unchanged,
            other => return Err(BookError::Refused(format!("{other:?} is no outcome of a payment"))),
        };
        let Ok(id) = OrderId::new(row.try_get("id")?) else { continue };
        items.insert(id, ItemReply::Done(credited));
    }
    let now = rows.last().map_or(Ok(OffsetDateTime::UNIX_EPOCH), |row| row.try_get("now"))?;
    items.extend(held.into_iter().map(|id| (id, locked())));
    Ok(Reply { time: ServerTime::from(now), items })
}

fn idempotency_key(payment: &Payment) -> String {
    format!("payment:{}:{}", payment.id, payment.receipt.transaction_id)
}
