-- Writes down what gateways have said of trades that are not paid. $1: order IDs. $2: gateways. $3: trade numbers.
-- $4: whether each is gone for good (closed); if not, the gateway knows no such trade, yet.
insert into payments (order_id, gateway, trade_no, state, not_found_at)
select id, gateway, nullif(trade_no, id), case when gone then 'closed' else 'open' end, case when not gone then clock_timestamp() end
from unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) as noted (id, gateway, trade_no, gone)
on conflict (order_id) do update
set state = excluded.state, not_found_at = coalesce(payments.not_found_at, excluded.not_found_at)
where payments.state = 'open'
