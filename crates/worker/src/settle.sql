-- Closes orders and does all that goes with it, in one statement; lock.sql has locked them before, in the same
-- transaction.
-- $1: order IDs, each once. $2: the deadline with which each was loaded. $3: the idempotency key of each.
-- $4: who does it. $5, $6: trade number and prepay of the payment of
-- which its gateway has said that nobody can make it any more; null: it had none. $7: why. $8, $9: the type of operator
-- and the operator who had it done; null: nobody had. $10: after how many seconds its trade is to be looked for once
-- more; null: it is not. $11: the trace that it is part of. Returns the orders that were closed; those missing from the answer
-- have changed meanwhile.
with due as (
    select * from unnest($1::text[], $2::timestamptz[], $3::text[], $5::text[], $6::text[], $10::float8[])
        as due (id, deadline, key, trade_no, prepay, again_s)
),
-- Looked up by ID alone, as in lock.sql; what they were found to be is compared in the next step.
found as materialized (
    select o.id, o.status, o.payment_deadline, due.deadline, due.key, due.again_s,
           case
               when due.trade_no is null then p.order_id is null or p.gateway = 'none'
               else coalesce(p.trade_no, o.id) = due.trade_no and coalesce(p.prepay, 'attempted') = due.prepay
           end as heard
    from due
    join orders o on o.id = due.id
    left join payments p on p.order_id = due.id
),
-- The guard: only what is pending under its lock, still has the deadline with which it was loaded, and has no
-- payment but the one that was asked about, closes.
closed as (
    update orders o
    set status = 'closed', closed_at = clock_timestamp()
    from found
    where o.id = found.id and found.status = 'pending' and found.payment_deadline = found.deadline
      and found.heard
    returning o.id, o.closed_at, o.amount_minor, o.currency, found.deadline, found.key, found.again_s
),
-- What the closed orders had reserved, added up, so that a hot SKU is updated once.
released as (
    select i.sku_id, sum(i.quantity)::bigint as quantity
    from closed
    join order_items i on i.order_id = closed.id
    group by i.sku_id
),
-- Locked in the order of the SKUs, after the orders, as everybody does.
stock as materialized (
    select s.sku_id, released.quantity
    from inventory s
    join released on released.sku_id = s.sku_id
    order by s.sku_id
    for no key update of s
),
restocked as (
    update inventory s
    set available = s.available + stock.quantity, reserved = s.reserved - stock.quantity
    from stock
    where s.sku_id = stock.sku_id
),
logged as (
    insert into order_log (order_id, from_status, to_status, reason, actor, idempotency_key, operator_type, operator, at)
    select id, 'pending', 'closed', $7, $4, key, $8, $9, closed_at from closed
),
-- An order can come to the same deadline twice only if somebody reopened it by hand; the key stays then.
recorded as (
    insert into idempotency_keys (key, order_id, outcome, created_at)
    select key, id, 'closed', closed_at from closed
    on conflict (key) do nothing
),
armed as (
    insert into outbox (order_id, due_at, traceparent)
    select id, closed_at + again_s * interval '1 second', $11 from closed where again_s is not null
),
announced as (
    insert into outbox (order_id, due_at, traceparent, event, event_id, data)
    select id, closed_at, $11::text, 'order.closed', key, json_build_object(
        'order_id', id, 'payment_deadline', deadline, 'closed_at', closed_at, 'reason', $7::text, 'actor', $4::text,
        'amount_minor', amount_minor, 'currency', currency)
    from closed
)
select id, closed_at, deadline from closed
