-- Relays look at the outbox some times a second. A notification at each commit took a lock that all commits of the PostgreSQL
-- cluster share, so whoever armed orders waited for all others who did.
drop trigger outbox_wakes_relay on outbox;
drop function overdue_wake_relay();

-- What a batch of orders announces is one row for up to 256 events, and the relay makes the messages. Their data does not change
-- until it is read and deleted: compressing it would be work for nothing.
alter table outbox
    drop constraint if exists outbox_event_check,
    add constraint outbox_event_check check (event in ('batch', 'order.closed', 'order.paid', 'payment.late', 'payment.refunded')),
    add column events integer not null default 1,
    alter column data set storage external;
comment on column outbox.event is 'The type of the event, or batch; null: the row is the timeout of an order.';
comment on column outbox.events is 'How many events the row announces.';
comment on column outbox.data is 'Of an event: its data. Of a batch: a list of events, each with event, id, order_id, time and data.';
