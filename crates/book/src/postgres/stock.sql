-- What the orders of `settled` had reserved, added up, so that a hot SKU is updated once. The sum keeps the type of the
-- quantities: a fraction is not rounded. A line of nothing, or of less, moves nothing.
lines as materialized (
    select settled.id, settled.status, i.sku_id, i.quantity
    from settled
    join order_items i on i.order_id = settled.id
),
reserved as (
    select sku_id, sum(quantity) as quantity, coalesce(sum(quantity) filter (where status <> 'paid'), 0) as returned
    from lines
    where quantity > 0
    group by sku_id
),
-- Locked in the order of the SKUs, after the orders, as everybody does.
stock as materialized (
    select s.sku_id, reserved.quantity, reserved.returned
    from inventory s
    join reserved on reserved.sku_id = s.sku_id
    order by s.sku_id
    for no key update of s
),
moved as (
    update inventory s
    set available = s.available + stock.returned, reserved = s.reserved - stock.quantity
    from stock
    where s.sku_id = stock.sku_id
),
