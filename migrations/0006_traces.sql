-- Which trace a row of the outbox belongs to, so that an order's way can be followed from its creation to its close.
alter table outbox
    add column traceparent text check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$');
comment on column outbox.traceparent is 'W3C Trace Context; null: nobody follows it.';
