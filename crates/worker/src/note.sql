-- Writes down what gateways have said of trades that are not paid. $1: order IDs. $2: gateways. $3: trade numbers.
-- $4: gone (nobody can pay it any more), not_found (the gateway knows no such trade, yet) or exists.
insert into payments (order_id, gateway, trade_no, prepay, state, not_found_at)
select id, gateway, nullif(trade_no, id),
       case when told = 'exists' then 'created' else 'attempted' end,
       case when told = 'gone' then 'closed' else 'open' end,
       case when told = 'not_found' then clock_timestamp() end
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as noted (id, gateway, trade_no, told)
on conflict (order_id) do update
set state = case when excluded.not_found_at is null then excluded.state else payments.state end,
    prepay = case when excluded.prepay = 'created' then 'created' else payments.prepay end,
    not_found_at = coalesce(payments.not_found_at, excluded.not_found_at)
where payments.state <> 'paid'
