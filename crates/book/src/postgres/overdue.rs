use std::collections::HashSet;

use database::Client;
use order::OrderId;

use super::error::is_bad;
use crate::{BookError, Bookmark, OverduePage, PageRequest};

/// A page of the index of pending orders by deadline.
pub(super) async fn page(client: &Client, page: &PageRequest) -> Result<OverduePage, BookError> {
    // Before all that there is, if there is no page before.
    let (deadline, id) = match &page.after {
        Some(after) => (after.deadline.as_str(), after.id.as_str()),
        None => ("-infinity", ""),
    };
    let (grace, count_max) = (page.grace.as_secs_f64(), i64::try_from(page.orders_max).unwrap_or(i64::MAX));
    let rows = client.within(is_bad, async |client| {
        let page = client
            .prepare_cached(
                "select payment_deadline::text as payment_deadline, id from orders
                 where status = 'pending' and payment_deadline < statement_timestamp() - $1 * interval '1 second'
                   and (payment_deadline, id) > ($2::text::timestamptz, $3)
                 order by orders.payment_deadline, id limit $4",
            )
            .await?;
        client.query(&page, &[&grace, &deadline, &id, &count_max]).await
    });
    let rows = rows.await?;
    let mut found = OverduePage { ids: Vec::with_capacity(rows.len()), next: None };
    for row in &rows {
        // What is no ID of ours cannot be settled by us.
        found.ids.extend(OrderId::new(row.try_get("id")?).ok());
    }
    if let Some(last) = rows.last().filter(|_| rows.len() == page.orders_max) {
        found.next = Some(Bookmark { deadline: last.try_get("payment_deadline")?, id: last.try_get("id")? });
    }
    Ok(found)
}

/// By the log: a row that has the order pending, and is no older than its deadline.
pub(super) async fn moved(client: &Client, ids: &[OrderId]) -> Result<HashSet<OrderId>, BookError> {
    let ids: Vec<&str> = ids.iter().map(OrderId::as_str).collect();
    let rows = client.within(is_bad, async |client| {
        let moved = client
            .prepare_cached(
                "select distinct o.id from orders o join order_log l on l.order_id = o.id
                 where o.id = any($1) and l.to_status = 'pending' and l.at > o.payment_deadline - interval '0.2 seconds'",
            )
            .await?;
        client.query(&moved, &[&ids]).await
    });
    let mut moved = HashSet::new();
    for row in rows.await? {
        moved.extend(OrderId::new(row.try_get("id")?).ok());
    }
    Ok(moved)
}
