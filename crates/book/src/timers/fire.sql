-- Fires timers, in one statement. $1: kinds. $2: subjects. $3: when each was due as it was loaded. $4: the revision of each as it was
-- loaded. $5: the trace that it is part of. The line that names announce.sql stands for that file. Returns those that have fired,
-- and those that stand otherwise by now (without a lateness); what is missing in the answer is held by another transaction.
with due as (
    select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[]) as due (kind, subject, due_at, revision)
),
-- By name alone, in the order of names: were state or time asked for, the planner could take the index of armed timers, and read
-- all timers of one instant for each one. What another transaction holds is left out; the others come as they are under the lock.
locked as materialized (
    select t.kind, t.subject, t.data, t.changed_at,
           t.state = 'armed' and t.due_at = due.due_at and t.revision = due.revision as stands
    from due
    join timers t on t.kind = due.kind and t.subject = due.subject
    order by t.kind, t.subject
    for no key update of t skip locked
),
-- The guard: only what is armed still, and stands as it was loaded, fires.
fired as (
    update timers t
    set state = 'fired', fired_at = clock_timestamp(), changed_at = clock_timestamp()
    from locked
    where locked.stands and t.kind = locked.kind and t.subject = locked.subject
    returning t.kind, t.subject, t.due_at, t.revision, t.fired_at, t.data, locked.changed_at as armed_at
),
events as (
    select subject as order_id, fired_at as due_at, $5::text as traceparent, 'timer.' || kind as event,
           concat_ws(':', 'timer', kind, subject, revision) as event_id,
           json_build_object('kind', kind, 'subject', subject, 'revision', revision, 'due_at', due_at, 'fired_at', fired_at,
               'data', data) as data
    from fired
),
-- announce.sql
changed as (
    select kind, subject from locked where not stands
)
-- What was armed for the past is late from its arming on.
select kind, subject, extract(epoch from fired_at - greatest(due_at, armed_at))::float8 as late_s, clock_timestamp() as now from fired
union all
select kind, subject, null, clock_timestamp() from changed
