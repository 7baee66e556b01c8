-- Closes orders and does all that goes with it, in one statement. lock.sql has locked them before, in the same
-- transaction. The lines that name stock.sql and announce.sql stand for those files.
-- $1: order IDs, each once. $2: the deadline with which each was loaded. $3: the idempotency key of each.
-- $4: who does it. $5: the payments of each of which their gateways have said that they can no longer be made, as `keys` in
-- settle.rs writes them; null: it had none. $6: why. $7, $8: the type of operator and the operator who had it done; null: no
-- operator. $9: after how many seconds its trades are to be looked for once more; null: they are not. $10: the trace that it is
-- part of. Returns the orders that were closed; those missing from the answer have changed meanwhile.
with due as (
    select * from unnest($1::text[], $2::timestamptz[], $3::text[], $5::text[], $9::float8[])
        as due (id, deadline, key, heard, again_s)
),
-- Looked up by ID alone, as in lock.sql; what they were found to be is compared in the next step. Deadlines are cut as in
-- load.sql.
found as materialized (
    select o.id, o.status, due.deadline, due.key, due.again_s,
           greatest(least(o.payment_deadline, '9000-01-01Z'), '2000-01-01Z') = due.deadline as stands,
           -- Without a row in payments it is paid at the default gateway, if there is one.
           coalesce(p.all_heard, not exists (
               select from gateways g
               where g.is_default
                 and g.name || chr(31) || due.id || chr(31) || 'attempted' <> all (string_to_array(coalesce(due.heard, ''), chr(30)))
           )) as heard
    from due
    join orders o on o.id = due.id
    left join lateral (
        select bool_and(p.gateway = 'none' or p.state = 'closed'
            or p.gateway || chr(31) || p.trade_no || chr(31) || p.prepay = any (string_to_array(coalesce(due.heard, ''), chr(30)))) as all_heard
        from payments p
        where p.order_id = due.id
    ) p on true
),
-- The guard: only what is pending under its lock, still has the deadline with which it was loaded, and has no
-- payment but the one that was asked about, closes.
settled as (
    update orders o
    set status = 'closed', closed_at = clock_timestamp()
    from found
    where o.id = found.id and found.status = 'pending' and found.stands and found.heard
    returning o.id, o.status, o.closed_at, o.amount_minor, o.currency, found.deadline, found.key, found.again_s
),
-- stock.sql
-- Lines of which nothing can come back: there is no such SKU any more, or the quantity is none.
missing as (
    select r.sku_id from reserved r where not exists (select from inventory s where s.sku_id = r.sku_id)
),
odd as (
    select id, string_agg(sku_id, ', ' order by sku_id) as skus
    from lines
    where not quantity > 0 or sku_id in (select sku_id from missing)
    group by id
),
logged as (
    insert into order_log (order_id, from_status, to_status, reason, actor, idempotency_key, operator_type, operator, at)
    select s.id, 'pending', 'closed', $6 || coalesce('; no stock came back of: ' || odd.skus, ''), $4, s.key, $7, $8, s.closed_at
    from settled s
    left join odd on odd.id = s.id
),
-- An order can come to the same deadline twice only if it was reopened by hand; the key stays then.
recorded as (
    insert into idempotency_keys (key, order_id, outcome, created_at)
    select key, id, 'closed', closed_at from settled
    on conflict (key) do nothing
),
events as (
    select e.*
    from settled,
         overdue_event('order.closed', settled.id, settled.key, settled.closed_at, $10::text, settled.amount_minor, settled.currency,
             fact_at => settled.closed_at, deadline => settled.deadline, reason => $6::text, actor => $4::text) e
),
-- announce.sql
armed as (
    insert into outbox (order_id, due_at, traceparent)
    select id, closed_at + again_s * interval '1 second', $10 from settled where again_s is not null
)
select s.id, s.closed_at, extract(epoch from s.closed_at - s.deadline)::float8 as late_s, odd.skus as without_stock
from settled s
left join odd on odd.id = s.id
