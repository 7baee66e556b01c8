with kept as (
    insert into outbox (order_id, kind, due_at, claimed_until, traceparent)
    select t.id, t.kind, t.due, clock_timestamp() + t.wait * interval '1 second', t.trace
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::text[]) as t (id, kind, due, wait, trace)
)
select clock_timestamp() as now
