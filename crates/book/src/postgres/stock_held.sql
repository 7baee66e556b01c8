-- Locks the stock of orders as far as no other transaction holds it, without waiting, and returns the orders of which it
-- could not lock everything, with the SKUs. $1: their IDs. A SKU that has no row holds up nothing.
with lines as materialized (
    select i.order_id, i.sku_id from order_items i where i.order_id = any($1::text[])
),
free as materialized (
    select s.sku_id
    from inventory s
    where s.sku_id in (select sku_id from lines)
    order by s.sku_id
    for no key update of s skip locked
)
select distinct l.order_id as id, l.sku_id::text as sku_id
from lines l
join inventory s on s.sku_id = l.sku_id
where s.sku_id not in (select sku_id from free)
