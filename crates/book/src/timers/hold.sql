-- Locks the timers with these names that there are, but for those that another transaction holds, and returns the names of the
-- latter. $1: kinds. $2: subjects.
with wanted as (
    select distinct kind, subject from unnest($1::text[], $2::text[]) as wanted (kind, subject)
),
locked as materialized (
    select t.kind, t.subject
    from wanted
    join timers t on t.kind = wanted.kind and t.subject = wanted.subject
    order by t.kind, t.subject
    for no key update of t skip locked
)
select t.kind, t.subject
from wanted
join timers t on t.kind = wanted.kind and t.subject = wanted.subject
where (t.kind, t.subject) not in (select kind, subject from locked)
