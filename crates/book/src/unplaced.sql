-- Writes down money that cannot be placed. $1: gateway. $2: trade number. $3: transaction ID. $4: amount. $5: currency.
-- $6: what is wrong with it. An order of that number is asked for at the gateway from now on, and parked when it
-- falls due.
with known as (
    insert into payments (order_id, gateway)
    select id, $1 from orders where id = $2
    on conflict do nothing
)
insert into refunds (refund_no, order_id, gateway, trade_no, transaction_id, amount_minor, currency, reason, state, problem)
values ('unplaced-' || md5($1 || ' ' || $2 || ' ' || $3), $2, $1, $2, $3, $4, $5, 'the money cannot be placed', 'needs_person', $6)
on conflict do nothing
