-- The orders with these IDs as they stand, a row for each of their payments at gateways. $1: IDs. $2: the gateway of orders
-- without a row in payments; null: the one that is the default, if any is.
-- An ID without an order comes back with a null status. The time is the database's, taken per row, since the
-- statement's own time would be that of its start. Times of infinity are cut to the years 2000 and 9000: no
-- clock on the other side can hold them.
select wanted.id,
       o.status::text as status,
       case when o.payment_deadline is not null
           then greatest(least(o.payment_deadline, '9000-01-01Z'), '2000-01-01Z')
       end as payment_deadline,
       clock_timestamp() as now,
       coalesce(p.gateway::text, $2, (select g.name from gateways g where g.is_default)) as gateway,
       coalesce(p.trade_no::text, wanted.id) as trade_no,
       coalesce(p.prepay::text, 'attempted') as prepay,
       coalesce(p.state::text, 'open') as trade_state,
       greatest(least(coalesce(p.created_at, o.created_at, '2000-01-01Z'), '9000-01-01Z'), '2000-01-01Z') as trade_created_at,
       case when p.not_found_at is not null
           then greatest(least(p.not_found_at, '9000-01-01Z'), '2000-01-01Z')
       end as not_found_at,
       case when p.payable_until is not null
           then greatest(least(p.payable_until, '9000-01-01Z'), '2000-01-01Z')
       end as payable_until,
       o.amount_minor::bigint as amount_minor,
       o.currency::text as currency
from unnest($1::text[]) as wanted (id)
left join orders o on o.id = wanted.id
left join payments p on p.order_id = wanted.id
