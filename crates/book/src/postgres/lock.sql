-- Waits until none of these orders is locked by another transaction, and locks them. $1: IDs.
-- A statement of its own, so that the one that settles begins after the wait and sees what they left: not only
-- the order, but its items too. In the order of the IDs, as all transactions lock them, so there is no deadlock.
-- By ID alone: were status or deadline asked for, the planner could take the index of pending orders by
-- deadline instead, and read all orders of a flash sale for each one.
select o.id
from unnest($1::text[]) as wanted (id)
join orders o on o.id = wanted.id
order by o.id
for no key update of o
