-- Every close and every order changes rows of the inventory, and no index is on what they change. Room on each page lets the new
-- version stay beside the old one (a HOT update), without a new entry in the index of SKUs. Rows of `orders` change for good once,
-- and leave the index of pending orders when they do: room would not help them. Where `inventory` is a view, its table needs the like.
do $$
begin
    if (select relkind from pg_class where oid = to_regclass('inventory')) = 'r' then
        alter table inventory set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
    end if;
end
$$;
