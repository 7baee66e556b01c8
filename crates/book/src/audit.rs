use std::time::Duration;

use database::Client;
use order::ParkReason;
use serde::Serialize;
use tokio_postgres::IsolationLevel;

use crate::BookError;

/// The state of the books at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Whether every check passed.
    pub clean: bool,
    /// How many orders there are.
    pub orders: i64,
    /// Every check with what it found.
    pub checks: Vec<Check>,
}

/// One rule that the books must keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A short, stable name.
    pub name: &'static str,
    /// The rule, as a sentence.
    pub rule: &'static str,
    /// How many rows break it.
    pub violations: i64,
    /// Some of them: order IDs or SKUs, at most ten.
    pub examples: Vec<String>,
}

/// Name, rule, and a query for the keys of the rows that break it. `$1` is the grace in seconds where it is used. `REASONS` stands
/// for the reasons for parking a message that are gone once its orders have settled.
const CHECKS: [(&str, &str, &str); 18] = [
    (
        "overdue_pending",
        "no order is pending past its deadline by more than the grace",
        "select id as key from orders
         where status = 'pending' and payment_deadline < transaction_timestamp() - $1 * interval '1 second'",
    ),
    (
        "reserved_stock",
        "the reserved stock of each SKU equals the items of pending orders",
        "select i.sku_id as key from inventory i
         left join (select oi.sku_id, sum(oi.quantity) as quantity from order_items oi
                    join orders o on o.id = oi.order_id where o.status = 'pending' group by oi.sku_id) p using (sku_id)
         where i.reserved <> coalesce(p.quantity, 0) and $1::float8 is not null",
    ),
    (
        "closed_once",
        "every closed order has exactly one closing row in its log, and one more for each time that it was opened again",
        "select o.id as key from orders o
         left join order_log l on l.order_id = o.id
         where o.status = 'closed' and $1::float8 is not null
         group by o.id
         having count(*) filter (where l.to_status = 'closed') - count(*) filter (where l.from_status = 'closed') <> 1",
    ),
    (
        "closed_in_fact",
        "every order with a closing row in its log is closed, or was opened again",
        "select o.id as key from orders o
         join order_log l on l.order_id = o.id
         where o.status <> 'closed' and $1::float8 is not null
         group by o.id
         having count(*) filter (where l.to_status = 'closed') > count(*) filter (where l.from_status = 'closed')",
    ),
    (
        "closed_on_time",
        "no order was closed before the deadline that it had then",
        "select o.id as key from orders o
         left join lateral (
             select substr(l.idempotency_key, length('payment-timeout:' || o.id || ':') + 1)::timestamptz as deadline
             from order_log l
             where l.order_id = o.id and l.to_status = 'closed' and l.idempotency_key like 'payment-timeout:%'
             order by l.id desc limit 1
         ) closed on true
         where o.status = 'closed' and o.closed_at < coalesce(closed.deadline, o.payment_deadline)
           and $1::float8 is not null",
    ),
    (
        "keys_kept",
        "every order that an idempotency key calls closed is closed, or was opened again",
        "select distinct o.id as key from idempotency_keys k join orders o on o.id = k.order_id
         where k.outcome = 'closed' and o.status <> 'closed' and $1::float8 is not null
           and not exists (select from order_log l
                           where l.order_id = o.id and l.from_status = 'closed' and l.at >= k.created_at)",
    ),
    (
        "paid_once",
        "every payment that was made at a gateway has paid its order, or goes back",
        "select p.order_id as key from payments p join orders o on o.id = p.order_id
         where p.state = 'paid' and $1::float8 is not null
         and (o.status = 'paid' and (o.transaction_id = p.transaction_id
              or (o.transaction_id is null and (p.paid_at is null or p.paid_at <= o.paid_at)))) is not true
         and not exists (select from refunds r
                         where r.order_id = p.order_id and r.gateway = p.gateway and r.transaction_id = p.transaction_id)",
    ),
    (
        "no_refund_of_paid",
        "no payment of an order that is paid goes back",
        "select r.order_id as key from refunds r join orders o on o.id = r.order_id
         where o.status = 'paid' and o.transaction_id = r.transaction_id and r.refund_no like 'overdue-%'
           and $1::float8 is not null
           and not exists (select from payments p
                           where p.order_id = o.id and p.state = 'paid' and p.transaction_id = o.transaction_id
                             and (p.gateway, p.trade_no) <> (r.gateway, r.trade_no))",
    ),
    (
        "asked_before_close",
        "no order was closed unasked while orders without a payment on record are paid at a gateway",
        "select o.id as key from orders o join gateways g on g.default_since < o.closed_at
         where o.status = 'closed' and o.closed_at < transaction_timestamp() - $1 * interval '1 second'
           and not exists (select from payments p where p.order_id = o.id)",
    ),
    (
        "payments_followed",
        "every payment that could still be made is looked at, also when its order has ended",
        "select p.order_id as key from payments p join orders o on o.id = p.order_id
         where p.state = 'open' and p.gateway <> 'none' and o.status <> 'pending'
           and p.ask_at < transaction_timestamp() - ($1::float8 + 60) * interval '1 second'",
    ),
    (
        "not_given_up_early",
        "no trade that its gateway does not know is given up while it could still appear",
        "select p.order_id as key from payments p
         where p.state = 'closed' and p.not_found_at is not null and p.prepay <> 'created' and $1::float8 is not null
           and coalesce(p.payable_until, 'infinity') > transaction_timestamp()",
    ),
    (
        "payable",
        "every pending order that is to be paid at a gateway can be: it costs something, and the gateway takes its trade number",
        "select o.id as key from orders o
         left join payments p on p.order_id = o.id
         left join gateways g on g.name = p.gateway or (p.gateway is null and g.is_default)
         where o.status = 'pending' and p.gateway is distinct from 'none' and coalesce(p.state, 'open') = 'open'
           and (p.gateway is not null or g.name is not null) and $1::float8 is not null
           and (o.amount_minor <= 0 or coalesce(p.trade_no, o.id) !~ g.trade_nos)",
    ),
    (
        "refunds_arrive",
        "no refund needs a person",
        "select refund_no as key from refunds where state = 'needs_person' and $1::float8 is not null",
    ),
    (
        "refunds_move",
        "no refund waits for longer than an hour to be accepted by its gateway",
        "select refund_no as key from refunds
         where state = 'requested'
           and coalesce(retried_at, created_at) < transaction_timestamp() - greatest($1::float8, 3600) * interval '1 second'",
    ),
    (
        "parked_for_a_reason",
        "no message is parked for orders that have settled in another way",
        "select k.id::text as key from parked k
         where k.state = 'held' and k.reason = any(REASONS) and k.orders <> '{}' and k.note is null
           and k.last_at < transaction_timestamp() - ($1::float8 + 10) * interval '1 second'
           and not exists (
               select from unnest(k.orders) as named (id)
               left join orders o on o.id = named.id and split_part(k.routing_key, '.', 2) <> 'timer'
               left join timers t on split_part(k.routing_key, '.', 2) = 'timer'
                   and t.kind = split_part(named.id, ':', 1) and t.subject = substr(named.id, strpos(named.id, ':') + 1)
               where (o.id is null or o.status::text = 'pending'
                  or exists (select from payments p where p.order_id = o.id and p.state = 'open' and p.gateway <> 'none'))
                 and coalesce(t.state, 'armed') = 'armed')",
    ),
    (
        "overdue_timers",
        "no timer is armed past its time by more than the grace",
        "select kind || ':' || subject as key from timers
         where state = 'armed' and greatest(due_at, changed_at) < transaction_timestamp() - $1 * interval '1 second'",
    ),
    (
        "timers_on_time",
        "no timer fired before its time",
        "select kind || ':' || subject as key from timers where fired_at < due_at and $1::float8 is not null",
    ),
    (
        "outbox_sent",
        "no timeout and no event has waited in the outbox for longer than the grace",
        "select order_id as key from outbox where created_at < transaction_timestamp() - $1 * interval '1 second'",
    ),
];

/// Checks the books, all rules at the same moment. `grace` is how late a close or a send may be.
///
/// # Errors
/// [`BookError`] where the database cannot be asked.
pub async fn audit(client: &Client, grace: Duration) -> Result<Audit, BookError> {
    // Of its own: the rules together may take longer than one call may.
    let mut connection = client.take().await?;
    let snapshot = connection.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = snapshot.start().await?;
    let orders = transaction.query_one("select count(*) from orders", &[]).await?.try_get(0)?;
    let mut checks = Vec::with_capacity(CHECKS.len());
    let reasons: Vec<&str> = ParkReason::codes_that_end_with_their_orders().collect();
    let reasons = format!("array['{}']", reasons.join("', '"));
    for (name, rule, query) in CHECKS {
        let query = query.replace("REASONS", &reasons);
        let counted = format!(
            "with broken as ({query})
             select (select count(*) from broken), coalesce((select array_agg(key::text) from (select key from broken order by key limit 10) first_ten), '{{}}')"
        );
        let row = transaction.query_one(&counted, &[&grace.as_secs_f64()]).await?;
        checks.push(Check { name, rule, violations: row.try_get(0)?, examples: row.try_get(1)? });
    }
    transaction.commit().await?;
    Ok(Audit { clean: checks.iter().all(|check| check.violations == 0), orders, checks })
}
