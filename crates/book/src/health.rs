//! Facts about the books that doctor and metrics show.

use database::Client;

use crate::BookError;
use crate::postgres::one;

/// Indexes that each statement in a hurry stands on, and what is slow without them. Where the tables are the shop's own,
/// they need the like.
const INDEXES: [(&str, &str); 17] = [
    ("orders_pending_by_deadline", "the sweep, and the metrics, read all orders"),
    ("outbox_timeouts", "the timeouts of new orders wait behind events"),
    ("outbox_events", "events are looked for among all timeouts"),
    ("payments_by_trade", "notifications are slow to find their order"),
    ("payments_by_transaction", "one payment could pay two orders"),
    ("payments_by_combined", "payments of several orders are slow to find"),
    ("payments_to_ask", "the sweep reads all payments for those that are open"),
    ("refunds_to_follow_up", "refunds are slow to find"),
    ("refunds_by_order", "the refunds of an order are slow to find"),
    ("refunds_by_age", "refunds are slow to list"),
    ("refunds_needing_person", "the console, and the metrics, read all refunds"),
    ("order_trail_by_age", "old steps of orders are slow to delete"),
    ("timers_armed_by_due", "the sweep, and the metrics, read all timers"),
    ("timers_by_subject", "the timers of an order are slow to find"),
    ("timers_ended", "old timers are slow to delete"),
    ("parked_held", "parked messages are slow to count"),
    ("api_requests_by_age", "old answers of the API are slow to delete"),
];

/// How many orders are pending although their deadline passed a minute ago or more: messages and sweep have missed them,
/// or cannot settle them. Orders at a gateway do not count, since they may have to wait; the sweep counts them as stuck.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn orders_past_deadline(client: &Client) -> Result<i64, BookError> {
    one(
        client,
        "select count(*) from orders o
         where status = 'pending' and payment_deadline < statement_timestamp() - interval '1 minute'
           and not exists (select 1 from payments p where p.order_id = o.id and p.gateway <> 'none')",
        &[],
    )
    .await
}

/// How many orders are pending ten minutes after their deadline because their gateway has not said how they stand.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn orders_unclear_at_gateway(client: &Client) -> Result<i64, BookError> {
    one(
        client,
        "select count(*) from orders o
         where o.status = 'pending' and o.payment_deadline < statement_timestamp() - interval '10 minutes'
           and exists (select from payments p where p.order_id = o.id and p.gateway <> 'none')",
        &[],
    )
    .await
}

/// How many timers are armed although they were due a minute ago or more: messages and sweep have missed them, or cannot fire
/// them.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn timers_past_due(client: &Client) -> Result<i64, BookError> {
    let past = "select count(*) from timers
                where state = 'armed' and due_at < statement_timestamp() - interval '1 minute'
                  and changed_at < statement_timestamp() - interval '1 minute'";
    one(client, past, &[]).await
}

/// How many refunds wait for a person.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn refunds_needing_person(client: &Client) -> Result<i64, BookError> {
    one(client, "select count(*) from refunds where state = 'needs_person'", &[]).await
}

/// How many refunds have waited for an hour or more to be accepted by their gateway.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn refunds_waiting(client: &Client) -> Result<i64, BookError> {
    let waiting = "select count(*) from refunds
         where state = 'requested' and coalesce(retried_at, created_at) < statement_timestamp() - interval '1 hour'";
    one(client, waiting, &[]).await
}

/// Indexes that are missing or invalid, each with the consequence.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn missing_indexes(client: &Client) -> Result<Vec<(&'static str, &'static str)>, BookError> {
    let usable: Vec<String> = one(
        client,
        "select coalesce(array_agg(c.relname::text), '{}') from pg_index i join pg_class c on c.oid = i.indexrelid
         where i.indisvalid and i.indisready and c.relnamespace = (select relnamespace from pg_class where oid = 'outbox'::regclass)",
        &[],
    )
    .await?;
    // Over the tables of a shop, or in partitions, they have other names.
    let own_orders: bool = one(
        client,
        "select coalesce((select relkind = 'r' from pg_class where oid = to_regclass('orders')), false)",
        &[],
    )
    .await?;
    let missing = |(index, _): &(&str, &str)| {
        let elsewhere = index.starts_with("orders") && !own_orders;
        !elsewhere && !usable.iter().any(|name| name == index)
    };
    Ok(INDEXES.into_iter().filter(missing).collect())
}
