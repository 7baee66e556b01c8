-- Webhooks: where an endpoint stands that wants nothing more, or that an operator has stopped. All else about endpoints is in the
-- file of settings and in their queues.

create table webhook_endpoints (
    name       text collate "C" primary key check (name ~ '^[a-z][a-z0-9_-]{0,31}$'),
    stopped_at timestamptz not null default clock_timestamp(),
    reason     text not null check (reason <> ''),
    stopped_by text not null check (stopped_by <> '')
);
comment on table webhook_endpoints is 'Endpoints that are sent nothing until an operator says go on: `overdue webhook resume`.';

-- That an endpoint was stopped is an event, too.
alter table outbox
    drop constraint if exists outbox_event_check,
    add constraint outbox_event_check check (
        event in ('batch', 'order.closed', 'order.paid', 'payment.late', 'payment.refunded', 'endpoint.stopped')
        or event ~ '^timer[.][a-z][a-z0-9_]{0,15}$');

create or replace function overdue_event(
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
        when 'endpoint.stopped' then json_build_object(
            'endpoint', subject, 'stopped_at', fact_at, 'reason', reason, 'actor', actor)
    end
$$;
