-- What is held, by reason. $1: each group is counted up to so many. Only entries of the index are read, and no group is read as a
-- whole: one reason leads to the next.
with recursive reasons as (
    (select reason from parked where state = 'held' order by reason limit 1)
    union all
    select (select p.reason from parked p where p.state = 'held' and p.reason > r.reason order by p.reason limit 1)
    from reasons r
    where r.reason is not null
)
select r.reason, counted.messages, first.first_at, last.last_at, last.detail, last.last_id
from reasons r
cross join lateral (
    select count(*) as messages from (select from parked p where p.state = 'held' and p.reason = r.reason limit $1) bounded
) counted
cross join lateral (
    select p.first_at from parked p where p.state = 'held' and p.reason = r.reason order by p.id limit 1
) first
cross join lateral (
    select p.last_at, p.detail, p.id as last_id from parked p where p.state = 'held' and p.reason = r.reason order by p.id desc limit 1
) last
where r.reason is not null
