-- People and their requests.

-- A deadline that was moved is part of an order's story as well.
alter table order_log
    add column operator_type text check (operator_type <> ''),
    add column operator      text check (operator <> ''),
    drop constraint if exists order_log_check,
    -- What is there already fulfils it: the old one asked for more.
    add constraint order_log_check
        check (from_status is distinct from to_status or (from_status = 'pending' and to_status = 'pending')) not valid;
alter table order_log validate constraint order_log_check;
comment on column order_log.operator_type is 'As what the person acted that had it done: merchant, customer, support, and so on; null: nobody had.';
comment on column order_log.from_status is 'Null for the row that the creation of the order writes; the same as to_status where the deadline was moved.';

create table api_requests (
    key           text collate "C" primary key check (key <> ''),
    fingerprint   text not null,
    claim         uuid not null default gen_random_uuid(),
    claimed_until timestamptz not null,
    changed       boolean not null default false,
    status        integer,
    body          text,
    created_at    timestamptz not null default clock_timestamp(),
    check ((status is null) = (body is null))
);
comment on table api_requests is 'HTTP requests with an Idempotency-Key: what was asked, and the answer that is given again to whoever asks the same again.';
comment on column api_requests.status is 'The HTTP status of the answer; null: somebody is at it, or died at it.';
comment on column api_requests.claim is 'Tells whoever is at it from whoever was at it before.';
comment on column api_requests.changed is 'What was asked for is committed: whoever takes it over only has to answer.';
comment on column api_requests.claimed_until is 'Until then somebody is at it; afterwards another may take it over.';
create index api_requests_by_age on api_requests (created_at);
