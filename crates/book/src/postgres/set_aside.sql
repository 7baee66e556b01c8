-- Writes down money that cannot be credited. $1: order IDs; of money of no order, the trade number. $2: gateways. $3: trade
-- numbers. $4: transaction IDs. $5: amounts. $6: currencies; null: the gateway did not tell. $7: what is wrong with it. $8: what
-- the gateway has said. An order of that number is asked for at the gateway from now on.
with told as (
    select *
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bytea[])
        as told (id, gateway, trade_no, transaction_id, amount_minor, currency, problem, said)
),
known as (
    insert into payments (order_id, gateway, trade_no, prepay)
    select told.id, told.gateway, told.trade_no, 'created' from told join orders o on o.id = told.id
    on conflict do nothing
)
insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem, said)
select 'unplaced-' || md5(gateway || ' ' || trade_no || ' ' || coalesce(transaction_id, '')), id, gateway, trade_no, transaction_id,
       amount_minor, currency, 'the money cannot be placed', 'needs_person', problem, said
from told
on conflict do nothing
