-- The orders with these IDs as they stand. $1: IDs.
-- An ID without an order comes back with a null status. The time is the database's, taken per row, since the
-- statement's own time would be that of its start. A deadline of infinity is cut to the year 9000: no clock
-- on the other side can hold it.
select wanted.id,
       o.status,
       least(o.payment_deadline, '9000-01-01Z') as payment_deadline,
       clock_timestamp() as now
from unnest($1::text[]) as wanted (id)
left join orders o on o.id = wanted.id
