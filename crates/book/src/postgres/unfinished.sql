-- Orders that have ended and have a payment that could still be made, whose time to be looked at has come. $1: how many at most.
-- The next look is put off: by a quarter of the payment's age, from five seconds to six hours. A payment of an order that is
-- pending is looked at again when the order is due.
-- By the statement's time: PostgreSQL searches no index by clock_timestamp(), which may be another for each row.
with due as materialized (
    select order_id, gateway, trade_no
    from payments
    where state = 'open' and ask_at <= statement_timestamp()
    order by ask_at
    limit $1
    for update skip locked
),
looked_at as (
    update payments p
    set ask_at = case
        when o.status::text = 'pending'
            then greatest(least(o.payment_deadline, '9000-01-01Z'), clock_timestamp() + interval '1 minute')
        else clock_timestamp() + least(greatest((clock_timestamp() - p.created_at) / 4, interval '5 seconds'), interval '6 hours')
    end
    from due
    left join orders o on o.id = due.order_id
    where p.order_id = due.order_id and p.gateway = due.gateway and p.trade_no = due.trade_no
    returning p.order_id, p.gateway, o.status::text as status
)
select distinct order_id as id from looked_at where status <> 'pending' and gateway <> 'none'
