use std::collections::HashMap;

use database::{Client, ServerTime};
use order::{Deadline, Money, OrderFacts, OrderId, OrderStatus, PaymentFacts, PaymentState, Prepay};
use time::OffsetDateTime;
use tokio_postgres::Row;
use trace::causes;

use super::error::is_bad;
use crate::{BookResult, ItemReply, Loaded, Reply};

/// In the table of payments: no gateway is asked.
const NO_GATEWAY: &str = "none";

/// All orders in one query.
pub(super) async fn load(client: &Client, ids: &[OrderId], gateway: Option<&str>) -> BookResult<Loaded> {
    let ids: Vec<&str> = ids.iter().map(OrderId::as_str).collect();
    let rows = client.within(is_bad, async |client| {
        let statement = client.prepare_cached(include_str!("load.sql")).await?;
        client.query(&statement, &[&ids, &gateway]).await
    });
    let rows = rows.await?;
    // Each row has the time at which it was read.
    let now = rows.last().map_or(Ok(OffsetDateTime::UNIX_EPOCH), |row| row.try_get("now"))?;
    let mut items: HashMap<OrderId, ItemReply<Loaded>> = HashMap::with_capacity(rows.len());
    for row in rows {
        let Ok(id) = OrderId::new(row.try_get("id")?) else { continue };
        if let Some(known) = items.get_mut(&id) {
            add_payment(known, &row);
            continue;
        }
        let item = match row.try_get("status")? {
            None => ItemReply::Unknown,
            Some(status) => match facts(&row, status) {
                Ok(facts) => ItemReply::Done(Loaded { facts, revision: None }),
                Err(detail) => ItemReply::Refused(detail),
            },
        };
        items.insert(id, item);
    }
    Ok(Reply { time: ServerTime::from(now), items })
}

/// Another payment of an order that is known already.
fn add_payment(item: &mut ItemReply<Loaded>, row: &Row) {
    let ItemReply::Done(loaded) = item else { return };
    match payment_facts(row) {
        Ok(payment) => loaded.facts.payments.extend(payment),
        Err(error) => *item = ItemReply::Refused(causes(&error)),
    }
}

/// An error says why a row that is there cannot be used.
fn facts(row: &Row, status: &str) -> Result<OrderFacts, String> {
    let status: OrderStatus = status.parse().map_err(|error: order::BadStatus| error.to_string())?;
    let deadline: Option<OffsetDateTime> = row.try_get("payment_deadline").map_err(|error| causes(&error))?;
    let deadline = deadline.map(Deadline::at).ok_or("it has no payment deadline")?;
    let payment = payment_facts(row).map_err(|error| causes(&error))?;
    Ok(OrderFacts { status, deadline, payments: payment.into_iter().collect() })
}

fn payment_facts(row: &Row) -> Result<Option<PaymentFacts>, tokio_postgres::Error> {
    let gateway: Option<String> = row.try_get("gateway")?;
    let Some(gateway) = gateway.filter(|gateway| gateway != NO_GATEWAY) else { return Ok(None) };
    let prepay = match row.try_get("prepay")? {
        "none" => Prepay::None,
        "created" => Prepay::Created,
        _ => Prepay::Attempted,
    };
    Ok(Some(PaymentFacts {
        gateway,
        trade_no: row.try_get("trade_no")?,
        amount: Money { minor: row.try_get("amount_minor")?, currency: row.try_get("currency")? },
        prepay,
        created_at: row.try_get("trade_created_at")?,
        not_found_at: row.try_get("not_found_at")?,
        payable_until: row.try_get("payable_until")?,
        state: match row.try_get("trade_state")? {
            "paid" => PaymentState::Paid,
            "closed" => PaymentState::Closed,
            _ => PaymentState::Open,
        },
    }))
}
