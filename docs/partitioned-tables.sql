-- Orders, their items and their log in hash partitions by order ID. Run it once, after `overdue migrate` and before the first
-- order: it replaces the three tables, which must be empty, by partitioned ones with the same columns, checks and indexes.
-- Statements find rows by order ID, so each touches one partition; vacuum, index maintenance and backup get smaller pieces, and
-- tablespaces can spread them over disks. The number of partitions stays as it is for good: choose it for years to come.

do $$
declare
    partitions constant int := 8;
    part int;
begin
    if exists (select from orders) or exists (select from order_items) or exists (select from order_log) then
        raise exception 'orders, order_items and order_log must be empty';
    end if;

    alter table order_items drop constraint order_items_order_id_fkey;
    alter table order_items drop constraint order_items_sku_id_fkey;
    alter table orders rename to orders_plain;
    alter table order_items rename to order_items_plain;
    alter table order_log rename to order_log_plain;

    create table orders (like orders_plain including defaults including constraints including comments) partition by hash (id);
    create table order_items (like order_items_plain including defaults including constraints including comments) partition by hash (order_id);
    -- Partitions have no identity columns before PostgreSQL 17.
    create sequence order_log_ids;
    create table order_log (like order_log_plain including defaults including constraints including comments) partition by hash (order_id);
    alter table order_log alter column id set default nextval('order_log_ids');
    alter sequence order_log_ids owned by order_log.id;

    drop table order_items_plain, orders_plain, order_log_plain;
    for part in 0..partitions - 1 loop
        execute format('create table orders_%s partition of orders for values with (modulus %s, remainder %s)', part, partitions, part);
        execute format('create table order_items_%s partition of order_items for values with (modulus %s, remainder %s)', part, partitions, part);
        execute format('create table order_log_%s partition of order_log for values with (modulus %s, remainder %s)', part, partitions, part);
    end loop;

    alter table orders add constraint orders_pkey primary key (id);
    alter table order_items add constraint order_items_pkey primary key (order_id, sku_id);
    alter table order_log add constraint order_log_pkey primary key (order_id, id);
    create index orders_pending_by_deadline on orders (payment_deadline, id) where status = 'pending';
    alter table order_items add constraint order_items_order_id_fkey foreign key (order_id) references orders (id) on delete cascade;
    alter table order_items add constraint order_items_sku_id_fkey foreign key (sku_id) references inventory (sku_id);

    create trigger order_moved after update of payment_deadline, status on orders
        for each row when (new.status = 'pending' and (old.status <> 'pending' or new.payment_deadline is distinct from old.payment_deadline))
        execute function overdue_order_moved();
    create trigger order_ended after update of status on orders
        for each row when (old.status = 'pending' and new.status in ('paid', 'cancelled'))
        execute function overdue_order_ended();
end
$$;
