-- Does what commands say, with timers in the order of their names so that nothing deadlocks. $1: kinds. $2: subjects. $3: when each
-- is to fire; null: it is to be cancelled. $4: data. $5: versions. $6: the trace that it is part of.
with traced as (select set_config('overdue.traceparent', coalesce($6, ''), true)),
commands as (
    select c.* from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::bigint[])
        as c (kind, subject, due_at, data, version), traced
    order by c.kind collate "C", c.subject collate "C"
    offset 0
)
select case when due_at is null then overdue_cancel(kind, subject, version)::int
            else overdue_arm(kind, subject, due_at, data::json, version) end
from commands
