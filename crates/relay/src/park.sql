-- Moves rows of the outbox that cannot be sent to the messages that wait for a person. $1: their IDs. $2: reasons. $3: details.
with told as (
    select * from unnest($1::bigint[], $2::text[], $3::text[]) as told (id, reason, detail)
),
gone as (
    delete from outbox o using told where o.id = told.id
    returning o.order_id, o.due_at, o.kind, o.event, o.event_id, o.data, o.created_at, told.reason, told.detail
)
insert into parked (reason, detail, orders, routing_key, properties, headers, body, fingerprint, first_at, last_at)
select reason, detail, array[order_id], coalesce(event, '1s.' || kind), '{}',
       jsonb_build_object('x-overdue-from', 'outbox', 'x-overdue-due-at', due_at::text, 'x-overdue-event-id', event_id),
       convert_to(coalesce(data::text, order_id), 'UTF8'),
       sha256(convert_to(concat_ws(' ', reason, event_id, order_id, kind, due_at), 'UTF8')), created_at, clock_timestamp()
from gone
on conflict (fingerprint) where state = 'held' do update set times = parked.times + 1, last_at = excluded.last_at
