-- Writes down what gateways have said of trades that are not paid. $1: order IDs. $2: gateways. $3: trade numbers.
-- $4: gone (it can no longer be paid), absent (the gateway knows no such trade, and none can appear any more), not_found (it
-- knows none, yet), missed (the same, and its order was closed on that: the time counts from now) or exists.
insert into payments (order_id, gateway, trade_no, prepay, state, not_found_at, payable_until, created_at)
select noted.id, gateway, trade_no,
       case when told = 'exists' then 'created' when told in ('absent', 'missed') then 'none' else 'attempted' end,
       case when told in ('gone', 'absent') then 'closed' else 'open' end,
       case when told in ('not_found', 'missed') then clock_timestamp() end,
       case when told = 'absent' then clock_timestamp() end,
       coalesce(o.created_at, clock_timestamp())
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as noted (id, gateway, trade_no, told)
left join orders o on o.id = noted.id
on conflict (order_id, gateway, trade_no) do update
set state = case
        when excluded.not_found_at is not null then payments.state
        -- It was believed absent on a question older than the answer that showed it: the later one will close it.
        when excluded.prepay = 'none' and payments.prepay = 'created' then payments.state
        else excluded.state
    end,
    prepay = case when excluded.prepay = 'created' then 'created' else payments.prepay end,
    not_found_at = case
        -- The gateway knows it.
        when excluded.prepay = 'created' or (excluded.prepay = 'attempted' and excluded.state = 'closed') then null
        -- That was found before the end of it.
        when payments.state = 'closed' then payments.not_found_at
        when excluded.prepay = 'none' and excluded.not_found_at is not null then excluded.not_found_at
        else coalesce(payments.not_found_at, excluded.not_found_at)
    end,
    payable_until = coalesce(payments.payable_until, excluded.payable_until),
    -- Its deadline may have been moved since this was set.
    ask_at = least(payments.ask_at, clock_timestamp() + interval '1 minute')
where payments.state <> 'paid'
