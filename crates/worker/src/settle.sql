-- Closes orders and does all that goes with it, in one statement.
-- $1: order IDs, each once. $2: the deadline with which each was loaded. $3: the idempotency key of each.
-- $4: who does it. Returns the orders that were closed; those missing from the answer have changed meanwhile.
--
-- Rows are locked in the order of their keys, orders before stock: whoever else locks them does so in the
-- same order, so nobody waits in a circle.
with due as (
    select * from unnest($1::text[], $2::timestamptz[], $3::text[]) as due (id, deadline, key)
),
-- Waits for whoever has an order locked, and then sees what they left. Orders are looked up by ID alone: were
-- status or deadline asked for here, the planner could take the index of pending orders by deadline instead,
-- and read all orders of a flash sale for each one.
locked as materialized (
    select o.id, o.status, o.payment_deadline, due.deadline, due.key
    from orders o
    join due on due.id = o.id
    order by o.id
    for no key update of o
),
-- The guard: only what is pending under its lock, and still has the deadline with which it was loaded, closes.
closed as (
    update orders o
    set status = 'closed', closed_at = clock_timestamp()
    from locked
    where o.id = locked.id and locked.status = 'pending' and locked.payment_deadline = locked.deadline
    returning o.id, o.closed_at, locked.deadline, locked.key
),
-- What the closed orders had reserved, added up, so that a hot SKU is updated once.
released as (
    select i.sku_id, sum(i.quantity)::bigint as quantity
    from closed
    join order_items i on i.order_id = closed.id
    group by i.sku_id
),
stock as materialized (
    select s.sku_id, released.quantity
    from inventory s
    join released on released.sku_id = s.sku_id
    order by s.sku_id
    for no key update of s
),
restocked as (
    update inventory s
    set available = s.available + stock.quantity, reserved = s.reserved - stock.quantity
    from stock
    where s.sku_id = stock.sku_id
),
logged as (
    insert into order_log (order_id, from_status, to_status, reason, actor, idempotency_key, at)
    select id, 'pending', 'closed', 'payment timeout', $4, key, closed_at from closed
),
-- An order can come to the same deadline twice only if somebody reopened it by hand; the key stays then.
recorded as (
    insert into idempotency_keys (key, order_id, outcome, created_at)
    select key, id, 'closed', closed_at from closed
    on conflict (key) do nothing
)
select id, closed_at, deadline from closed
