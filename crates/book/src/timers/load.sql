-- The timers with these names as they stand. $1: kinds. $2: subjects. A name without a timer comes back with a null state. The
-- time is the database's, taken per row, since the statement's own would be that of its start.
select wanted.kind, wanted.subject, t.state, t.due_at, t.revision, clock_timestamp() as now
from unnest($1::text[], $2::text[]) as wanted (kind, subject)
left join timers t on t.kind = wanted.kind and t.subject = wanted.subject
