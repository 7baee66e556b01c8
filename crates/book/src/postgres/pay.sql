-- Records payments that a gateway vouches for, with all that goes with them. lock.sql has locked the orders
-- before, in the same transaction. The line that names stock.sql stands for that file.
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
settled as (
    update orders o
    set status = 'paid', paid_at = coalesce(found.paid_at, clock_timestamp()), transaction_id = found.transaction_id
    from found
    where o.id = found.id and found.status = 'pending'
    returning o.id, o.status, clock_timestamp() as now, o.paid_at, o.amount_minor, o.currency, found.key, found.gateway, found.transaction_id
),
-- stock.sql
logged as (
    insert into order_log (order_id, from_status, to_status, reason, actor, idempotency_key, at)
    select id, 'pending', 'paid', 'paid at the gateway', $10, key, now from settled
),
recorded as (
    insert into idempotency_keys (key, order_id, outcome, created_at)
    select key, id, 'paid', now from settled
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
    returning order_id, refund_no, gateway, transaction_id, amount_minor, currency, reason, created_at
),
announced as (
    insert into outbox (order_id, due_at, traceparent, event, event_id, data)
    select e.*
    from settled p,
         overdue_event('order.paid', p.id, p.key, p.now, $11::text, p.amount_minor, p.currency,
             fact_at => p.paid_at, transaction_id => p.transaction_id, gateway => p.gateway, actor => $10::text) e
    union all
    select e.*
    from late l,
         overdue_event('payment.late', l.order_id, 'payment-late:' || l.refund_no, l.created_at, $11::text, l.amount_minor, l.currency,
             transaction_id => l.transaction_id, gateway => l.gateway, refund_no => l.refund_no, reason => l.reason) e
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
           when settled.id is not null then 'paid'
           when late.order_id is not null then 'late'
           when found.status = 'pending' then 'unchanged'
           when found.known_as <> found.transaction_id then 'twice'
           else 'already'
       end as outcome,
       clock_timestamp() as now
from found
left join settled on settled.id = found.id
left join late on late.order_id = found.id
