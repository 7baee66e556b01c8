-- The sweep reads what is overdue page by page, in the order of this index. Where `orders` is a view, its table needs the like.
do $$
begin
    if (select relkind in ('r', 'p') from pg_class where oid = to_regclass('orders')) then
        drop index if exists orders_pending_by_deadline;
        create index orders_pending_by_deadline on orders (payment_deadline, id) where status = 'pending';
    end if;
end
$$;
