-- The rows of `events`, as overdue_event makes them, up to 256 in a row of the outbox, and no more than half a MiB or a little more
-- of data: the relay sends no row that has more than a MiB.
announced as (
    insert into outbox (order_id, due_at, traceparent, event, event_id, data, events)
    select min(order_id), min(due_at), min(traceparent), 'batch', min(event_id),
           json_agg(json_build_object('event', event, 'id', event_id, 'order_id', order_id, 'time', due_at, 'data', data)), count(*)
    from (select events.*, (row_number() over () - 1) / 256 as part,
                 sum(octet_length(data::text)) over (rows unbounded preceding) / 524288 as bytes_part
          from events) numbered
    group by part, bytes_part
),
