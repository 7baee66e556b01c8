-- The sweep reads what is overdue page by page, in the order of this index.
drop index orders_pending_by_deadline;
create index orders_pending_by_deadline on orders (payment_deadline, id) where status = 'pending';
