-- Writes payments down that a gateway vouches for, with all that goes with them; lock.sql has locked the orders
-- before, in the same transaction.
-- $1: order IDs, each once. $2: transaction IDs. $3: when each was paid; null: not known. $4: idempotency keys.
-- $5: gateways. $6: trade numbers. $7: amounts. $8: currencies. $9: refund numbers. $10: who does it. $11: the trace
-- that it is part of.
-- Returns what became of each order that there is: paid; late (closed or cancelled before: the money goes back);
-- already (paid before by the same payment, or going back already); twice (there is another payment);
-- unchanged (pending still).
with told as (
    select *
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[])
        as told (id, transaction_id, paid_at, key, gateway, trade_no, amount_minor, currency, refund_no)
),
found as materialized (
    select told.*, o.status, coalesce(o.transaction_id, r.transaction_id) as known_as
    from told
    join orders o on o.id = told.id
    left join refunds r on r.refund_no = told.refund_no
),
-- The guard: only what is pending under its lock.
paid as (
    update orders o
    set status = 'paid', paid_at = coalesce(found.paid_at, clock_timestamp()), transaction_id = found.transaction_id
    from found
    where o.id = found.id and found.status = 'pending'
    returning o.id, o.paid_at, o.amount_minor, o.currency, found.key, found.gateway, found.transaction_id
),
sold as (
    select i.sku_id, sum(i.quantity)::bigint as quantity
    from paid
    join order_items i on i.order_id = paid.id
    group by i.sku_id
),
-- Locked in the order of the SKUs, after the orders, as everybody does.
stock as materialized (
    select s.sku_id, sold.quantity
    from inventory s
    join sold on sold.sku_id = s.sku_id
    order by s.sku_id
    for no key update of s
),
taken as (
    update inventory s
    set reserved = s.reserved - stock.quantity
    from stock
    where s.sku_id = stock.sku_id
),
logged as (
    insert into order_log (order_id, from_status, to_status, reason, actor, idempotency_key, at)
    select id, 'pending', 'paid', 'paid at the gateway', $10, key, clock_timestamp() from paid
),
recorded as (
    insert into idempotency_keys (key, order_id, outcome, created_at)
    select key, id, 'paid', clock_timestamp() from paid
    on conflict (key) do nothing
),
-- One order, one number, one refund.
late as (
    insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason)
    select refund_no, id, gateway, trade_no, transaction_id, amount_minor, currency,
           'the order was ' || status || ' before the payment arrived'
    from found
    where status in ('closed', 'cancelled')
    on conflict do nothing
    returning order_id, refund_no, gateway, transaction_id, amount_minor, currency, reason
),
announced as (
    insert into outbox (order_id, due_at, traceparent, event, event_id, data)
    select id, clock_timestamp(), $11::text, 'order.paid', key, json_build_object(
        'order_id', id, 'paid_at', paid_at, 'transaction_id', transaction_id, 'gateway', gateway, 'actor', $10::text,
        'amount_minor', amount_minor, 'currency', currency)
    from paid
    union all
    select order_id, clock_timestamp(), $11::text, 'payment.late', 'payment-late:' || refund_no, json_build_object(
        'order_id', order_id, 'refund_no', refund_no, 'transaction_id', transaction_id, 'gateway', gateway, 'reason', reason,
        'amount_minor', amount_minor, 'currency', currency)
    from late
),
-- A second payment: which of the two goes back is for a person to say.
twice as (
    insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem)
    select 'twice-' || md5(gateway || ' ' || transaction_id), id, gateway, trade_no, transaction_id, amount_minor, currency,
           'there is another payment of the order', 'needs_person', 'the other payment is ' || known_as
    from found
    where status <> 'pending' and known_as <> transaction_id
    on conflict do nothing
),
noted as (
    insert into payments (order_id, gateway, trade_no, state, transaction_id)
    select id, gateway, nullif(trade_no, id), 'paid', transaction_id from found
    on conflict (order_id) do update set state = 'paid', transaction_id = excluded.transaction_id
    where payments.state <> 'paid'
)
select found.id,
       case
           when paid.id is not null then 'paid'
           when late.order_id is not null then 'late'
           when found.status = 'pending' then 'unchanged'
           when found.known_as <> found.transaction_id then 'twice'
           else 'already'
       end as outcome
from found
left join paid on paid.id = found.id
left join late on late.order_id = found.id
