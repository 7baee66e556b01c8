-- What the orders of `settled` had reserved, added up, so that a hot SKU is updated once.
reserved as (
    select i.sku_id, sum(i.quantity)::bigint as quantity,
           coalesce(sum(i.quantity) filter (where settled.status <> 'paid'), 0)::bigint as returned
    from settled
    join order_items i on i.order_id = settled.id
    group by i.sku_id
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
