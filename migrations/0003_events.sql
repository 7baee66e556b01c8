-- Facts for whoever wants to know of them. They go out by the outbox, too: written in the transaction that makes them
-- true, sent by the relay, deleted when the broker has confirmed them.

alter table outbox
    add column event    text check (event in ('order.closed', 'order.paid', 'payment.late', 'payment.refunded')),
    add column event_id text check (event_id <> ''),
    add column data     json,
    add check ((event is null) = (event_id is null) and (event is null) = (data is null));
comment on table outbox is 'What has still to be sent to RabbitMQ: timeouts of orders, and events. Written in the transaction that creates the order, or makes the event true; the relay deletes what it has sent.';
comment on column outbox.event is 'The type of the event; null: the row is the timeout of an order.';
comment on column outbox.event_id is 'The same each time the event is sent.';
comment on column outbox.due_at is 'When the order falls due; of an event: when it happened.';

-- A flash sale leaves events by the hundred thousand; the timeouts of new orders are found past them.
create index outbox_timeouts on outbox (id) where event is null;
create index outbox_events on outbox (id) where event is not null;
