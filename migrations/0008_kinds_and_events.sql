-- What is due has a kind. Services that insert into the outbox need not say it: their rows are payment timeouts.
alter table outbox
    add column kind text not null default 'payment' check (kind in ('payment', 'gateway'));
comment on column outbox.kind is 'What is due: payment (the deadline of an order) or gateway (its gateway is to be asked). Of no meaning for events.';

-- Every event is written by this function, so that its data has one form:
--
--     insert into outbox (order_id, due_at, traceparent, event, event_id, data)
--     select e.* from paid, overdue_event('order.paid', id => paid.id, …) e
--
-- `at` is when it happened, as the event tells; `fact_at` the time that stands in its data: of the close, of the payment, of
-- the refund's arrival. An unknown kind has no data, which the table refuses.
create function overdue_event(
    kind             text,
    subject          text,
    id               text,
    at               timestamptz,
    trace            text,
    amount           bigint,
    currency         text,
    fact_at          timestamptz default null,
    deadline         timestamptz default null,
    transaction_id   text default null,
    gateway          text default null,
    refund_no        text default null,
    reason           text default null,
    actor            text default null
)
returns table (order_id text, due_at timestamptz, traceparent text, event text, event_id text, data json)
language sql stable
as $$
    select subject, at, trace, kind, id, case kind
        when 'order.closed' then json_build_object(
            'order_id', subject, 'payment_deadline', deadline, 'closed_at', fact_at, 'reason', reason, 'actor', actor,
            'amount_minor', amount, 'currency', currency)
        when 'order.paid' then json_build_object(
            'order_id', subject, 'paid_at', fact_at, 'transaction_id', transaction_id, 'gateway', gateway, 'actor', actor,
            'amount_minor', amount, 'currency', currency)
        when 'payment.late' then json_build_object(
            'order_id', subject, 'refund_no', refund_no, 'transaction_id', transaction_id, 'gateway', gateway, 'reason', reason,
            'amount_minor', amount, 'currency', currency)
        when 'payment.refunded' then json_build_object(
            'order_id', subject, 'refund_no', refund_no, 'transaction_id', transaction_id, 'gateway', gateway, 'refunded_at', fact_at,
            'amount_minor', amount, 'currency', currency)
    end
$$;
comment on function overdue_event is 'A row for the outbox that announces an event.';
