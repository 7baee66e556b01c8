-- The columns of the tables, or views, of orders, items and stock that the search path leads to. A domain stands for the type
-- that it is based on.
select r.name as relation, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type,
       coalesce(base.typname, t.typname)::text as base,
       array(select enumlabel::text from pg_enum where enumtypid in (t.oid, base.oid)) as labels
from (values ('orders'), ('order_items'), ('inventory')) as r (name)
join pg_attribute a on a.attrelid = to_regclass(r.name) and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_type base on base.oid = nullif(t.typbasetype, 0)
