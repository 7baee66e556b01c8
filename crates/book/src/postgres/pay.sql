-- Records payments that a gateway vouches for, with all that goes with them. lock.sql has locked the orders
-- before, in the same transaction. The line that names stock.sql stands for that file.
-- $1: order IDs, each once. $2: transaction IDs. $3: when each was paid; null: not known. $4: idempotency keys.
-- $5: gateways. $6: trade numbers. $7: amounts. $8: currencies. $9: refund numbers. $10: who does it. $11: the trace
-- that it is part of. $12: refund numbers where another payment goes back under the first. $13: whether the gateway says that
-- the transaction pays several trades.
-- Returns what became of each order that there is: paid; late (closed or cancelled before: the money goes back);
-- twice (paid before by another payment that a gateway vouches for: this one goes back); disputed (paid before by something that
-- no gateway vouches for: a person must look); shared (the transaction is another trade's: a person must look);
-- already (paid before by the same payment, or going back already); unchanged (pending still).
with told as (
    select *
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $12::text[], $13::boolean[])
        as told (id, transaction_id, paid_at, key, gateway, trade_no, amount_minor, currency, refund_no, further_refund_no, combined)
),
found as materialized (
    select told.*, o.status, o.transaction_id as known_as, o.paid_at as known_at,
           coalesce(
               (select p.order_id from payments p
                where p.transaction_id = told.transaction_id and p.gateway = told.gateway and not p.combined
                  and (p.order_id, p.trade_no) <> (told.id, told.trade_no) limit 1),
               (select p.order_id from payments p
                where p.transaction_id = told.transaction_id and p.gateway = told.gateway and p.combined
                  and not told.combined and (p.order_id, p.trade_no) <> (told.id, told.trade_no) limit 1)
           ) as pays_for,
           exists (select from refunds r
                   where r.order_id = told.id and r.gateway = told.gateway and r.transaction_id = told.transaction_id
                     and r.refund_no not like 'unplaced-%' and r.refund_no not like 'shared-%') as goes_back,
           exists (select from payments p
                   where p.order_id = told.id and p.state = 'paid' and p.transaction_id = o.transaction_id
                     and (p.gateway, p.trade_no) <> (told.gateway, told.trade_no)) as vouched,
           exists (select from payments p
                   where p.order_id = told.id and p.gateway = told.gateway and p.trade_no = told.trade_no
                     and p.state = 'paid' and p.transaction_id = told.transaction_id) as on_record,
           exists (select from refunds r where r.refund_no = told.refund_no) as number_taken
    from told
    join orders o on o.id = told.id
),
-- An order that was marked as paid without a number was paid by this payment, unless this one came later.
judged as materialized (
    select found.*,
           case
               when goes_back then 'already'
               when pays_for is not null then 'shared'
               when status = 'pending' then 'due'
               when status in ('closed', 'cancelled') then 'late'
               when on_record then 'already'
               when vouched and not combined then 'twice'
               when known_as = transaction_id then 'already'
               when known_as is null and (paid_at is null or paid_at <= known_at) then 'already'
               else 'disputed'
           end as verdict
    from found
),
-- The guard: only what is pending under its lock.
settled as (
    update orders o
    set status = 'paid', paid_at = coalesce(judged.paid_at, clock_timestamp()), transaction_id = judged.transaction_id
    from judged
    where o.id = judged.id and judged.status = 'pending' and judged.verdict = 'due'
    returning o.id, o.status, clock_timestamp() as now, o.paid_at, o.amount_minor, o.currency, judged.key, judged.gateway, judged.transaction_id
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
-- One transaction of an order, one number, one refund.
late as (
    insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason)
    select case when number_taken then further_refund_no else refund_no end, id, gateway, trade_no, transaction_id, amount_minor, currency,
           case when verdict = 'late' then 'the order was ' || status || ' before the payment arrived'
                else 'the order was paid before by ' || known_as end
    from judged
    where verdict in ('late', 'twice')
    on conflict do nothing
    returning order_id, refund_no, gateway, transaction_id, amount_minor, currency, reason, created_at
),
events as (
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
-- announce.sql
-- Which of two payments goes back, or whose a payment is, is for a person to say.
for_a_person as (
    insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem)
    select verdict || '-' || md5(id || ' ' || gateway || ' ' || transaction_id), id, gateway, trade_no, transaction_id, amount_minor, currency,
           case verdict when 'shared' then 'the transaction pays another trade' else 'there is another payment of the order' end,
           'needs_person',
           case verdict when 'shared' then 'it is on record for the order ' || pays_for
                else 'the other payment is ' || coalesce(known_as, 'one without a number') end
    from judged
    where verdict in ('disputed', 'shared')
    on conflict do nothing
),
noted as (
    insert into payments (order_id, gateway, trade_no, state, transaction_id, paid_at, combined)
    select id, gateway, trade_no, 'paid', transaction_id, paid_at, combined from judged where verdict <> 'shared'
    on conflict (order_id, gateway, trade_no) do update
    set state = 'paid', transaction_id = excluded.transaction_id, paid_at = excluded.paid_at, combined = excluded.combined
    where payments.state <> 'paid'
),
-- It was paid, and cannot be paid any more.
spent as (
    update payments p
    set state = 'closed'
    from judged j
    where p.order_id = j.id and p.gateway = j.gateway and p.trade_no = j.trade_no and p.state = 'open'
      and j.verdict = 'shared' and j.status <> 'pending'
),
-- What was set aside because the gateway told too little of it, or something else, is on record now.
placed as (
    update refunds r
    set state = 'succeeded', succeeded_at = clock_timestamp(), updated_at = clock_timestamp(),
        problem = concat_ws('; ', r.problem, 'resolved: the payment ' || j.transaction_id || ' is on record')
    from judged j
    where r.order_id = j.id and r.gateway = j.gateway and r.trade_no = j.trade_no and r.state = 'needs_person'
      and r.refund_no like 'unplaced-%' and (r.transaction_id is null or r.transaction_id = j.transaction_id)
      and j.verdict <> 'shared'
)
select judged.id,
       case
           when settled.id is not null then 'paid'
           when late.order_id is not null then judged.verdict
           when judged.verdict = 'due' then 'unchanged'
           when judged.verdict in ('late', 'twice') then 'already'
           else judged.verdict
       end as outcome,
       clock_timestamp() as now
from judged
left join settled on settled.id = judged.id
left join late on late.order_id = judged.id
