-- Drops messages that were parked for what kept their orders, or timers, from being settled, once all of those have settled in
-- another way.
-- $1: reasons. $2: the message after which to begin. $3: how many to look at. A message that a person had back stays.
-- Returns how many were looked at, the last of them, and how many were dropped.
with looked_at as materialized (
    select id, orders, split_part(routing_key, '.', 2) = 'timer' as of_timers from parked
    where state = 'held' and reason = any($1::text[]) and id > $2 and orders <> '{}' and note is null
    order by id
    limit $3
),
settled as (
    select l.id from looked_at l
    where not exists (
        select from unnest(l.orders) as named (id)
        left join orders o on o.id = named.id and not l.of_timers
        left join timers t on l.of_timers
            and t.kind = split_part(named.id, ':', 1) and t.subject = substr(named.id, strpos(named.id, ':') + 1)
        where (o.id is null or o.status::text = 'pending'
           or exists (select from payments p where p.order_id = o.id and p.state = 'open' and p.gateway <> 'none'))
          and coalesce(t.state, 'armed') = 'armed')
),
dropped as (
    update parked p
    set state = 'dropped', changed_at = clock_timestamp(), changed_by = 'overdue', note = 'its orders have settled in another way'
    from settled s
    where p.id = s.id and p.state = 'held'
    returning p.id
)
select (select count(*) from looked_at), (select max(id) from looked_at), (select count(*) from dropped)
