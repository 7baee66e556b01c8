-- A process says that it is at work, and what it has done since its start; what is more than when it last said so counts to this
-- minute. The same said twice counts once. $1: its ID. $2: host. $3: pid. $4: version. $5: roles. $6: since when. $7: whether it
-- leads the sweep. $8: orders that it holds. $9: counters. $10: circuit breakers. $11: closes by their lateness. $12: the greatest
-- lateness since it last said so, in milliseconds. $13: timers fired. $14: what its sweep has settled. $15: whether it says so for the
-- first time. Returns what operators want to be probed.
with before as (
    select late, fired, rescued from processes where id = $1::text::uuid
),
beat as (
    insert into processes (id, host, pid, version, roles, started_at, sweep_leader, held_orders, counters, circuits, late, fired, rescued)
    values ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10::text::jsonb, $11, $13, $14)
    on conflict (id) do update
    set seen_at = clock_timestamp(), roles = excluded.roles, sweep_leader = excluded.sweep_leader, held_orders = excluded.held_orders,
        counters = excluded.counters, circuits = excluded.circuits, late = excluded.late, fired = excluded.fired, rescued = excluded.rescued
),
more as (
    select array(
               select n - coalesce(before.late[place], case when $15::boolean then 0 else n end) from unnest($11::bigint[]) with ordinality said (n, place) order by place
           ) as late,
           $13::bigint - coalesce(before.fired, case when $15::boolean then 0 else $13::bigint end) as fired,
           $14::bigint - coalesce(before.rescued, case when $15::boolean then 0 else $14::bigint end) as rescued
    from (select) one left join before on true
),
minute as (
    insert into process_minutes as m (minute, process, late, late_max_ms, fired, rescued)
    select date_trunc('minute', clock_timestamp()), $1::text::uuid, late, $12, fired, rescued
    from more
    where fired > 0 or rescued > 0 or 0 < any (late)
    on conflict (minute, process) do update
    set late = array(
            select a + b from unnest(m.late, excluded.late) with ordinality both_of (a, b, place) order by place
        ),
        late_max_ms = greatest(m.late_max_ms, excluded.late_max_ms),
        fired = m.fired + excluded.fired, rescued = m.rescued + excluded.rescued
)
select kind, name, requested_at from probes where requested_at > clock_timestamp() - interval '1 minute'
