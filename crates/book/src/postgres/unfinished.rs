use database::Client;
use order::OrderId;

use super::error::is_bad;
use crate::BookError;

/// Orders that have ended and have a payment that could still be made, and is due to be looked at.
pub(super) async fn unfinished(client: &Client, orders_max: usize) -> Result<Vec<OrderId>, BookError> {
    let count_max = i64::try_from(orders_max).unwrap_or(i64::MAX);
    let rows = client.within(is_bad, async |client| {
        let find = client.prepare_cached(include_str!("unfinished.sql")).await?;
        client.query(&find, &[&count_max]).await
    });
    let mut orders = Vec::new();
    for row in rows.await? {
        orders.extend(OrderId::new(row.try_get("id")?).ok());
    }
    Ok(orders)
}
