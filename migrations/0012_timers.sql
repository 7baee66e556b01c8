-- Timers: deadlines of other kinds than a payment's. A timer is a row; what it does, when it falls due, is one event
-- `timer.<kind>`, written by the statement that marks it as fired.

create table timers (
    kind       text collate "C" not null check (kind ~ '^[a-z][a-z0-9_]{0,15}$' and kind not in ('payment', 'gateway', 'timer', 'webhook')),
    subject    text collate "C" not null check (subject ~ '^[A-Za-z0-9._:-]{1,64}$'),
    due_at     timestamptz not null check (due_at between '2000-01-01Z' and '9000-01-01Z'),
    state      text not null default 'armed' check (state in ('armed', 'fired', 'cancelled')),
    revision   bigint not null default 1,
    data       json check (octet_length(data::text) <= 8192),
    version    bigint,
    fired_at   timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (kind, subject),
    check ((state = 'fired') = (fired_at is not null))
);
comment on table timers is 'A timer for each kind and subject. Arm it with overdue_arm, cancel it with overdue_cancel, in your own transaction.';
comment on column timers.kind is 'What it is about, such as receipt: the event is called timer.receipt.';
comment on column timers.subject is 'Whose it is, such as an order''s ID.';
comment on column timers.revision is 'Rises each time that it is armed anew, moved, or given other data. It is a part of the event''s ID.';
comment on column timers.data is 'Goes along with the event, as it is.';
comment on column timers.version is 'The highest number that a sender of commands has given; null: none has.';
comment on column timers.changed_at is 'When it was armed, moved, fired or cancelled last. Some time after it has fired or was cancelled the row is deleted.';

-- The sweep's: what is armed and due.
create index timers_armed_by_due on timers (due_at, kind, subject) where state = 'armed';
create index timers_by_subject on timers (subject, kind);
create index timers_ended on timers (changed_at) where state <> 'armed';

-- Each change of an armed timer is a new revision, whoever makes it. What ends it by hand is written down as of then.
create function overdue_timer_changed() returns trigger language plpgsql as $$
begin
    if new.state <> 'armed' then
        if new.changed_at = old.changed_at then
            new.changed_at := clock_timestamp();
        end if;
    elsif old.state <> 'armed' or new.due_at <> old.due_at or new.data::text is distinct from old.data::text then
        new.revision := old.revision + 1;
        new.fired_at := null;
        new.changed_at := clock_timestamp();
    end if;
    return new;
end
$$;
comment on function overdue_timer_changed is 'Counts the revisions of a timer.';
create trigger timer_changed before update of due_at, state, data on timers
    for each row when (new.state = 'armed' or (old.state = 'armed' and new.changed_at = old.changed_at))
    execute function overdue_timer_changed();

-- What is armed, or pulled forward, is sent by the relay. What is moved to later is not: its message comes too early, and waits on.
create function overdue_timer_armed() returns trigger language plpgsql security definer as $$
begin
    insert into outbox (order_id, kind, due_at, traceparent)
    values (new.kind || ':' || new.subject, 'timer', new.due_at, nullif(current_setting('overdue.traceparent', true), ''));
    return null;
end
$$;
comment on function overdue_timer_armed is 'Has a timer sent that was armed or pulled forward.';
create trigger timer_armed after insert on timers
    for each row when (new.state = 'armed')
    execute function overdue_timer_armed();
create trigger timer_pulled after update of due_at, state on timers
    for each row when (new.state = 'armed' and (new.due_at < old.due_at or old.state <> 'armed'))
    execute function overdue_timer_armed();

-- Arms a timer, or moves it: the last call wins. `due_at` in the past fires at once. The same call again changes nothing, also once the
-- timer has fired: it may be made twice because its answer was lost. `version`
-- is for senders whose calls can overtake each other: a call whose number is not higher than that of one before does nothing.
-- Returns the timer's revision.
create function overdue_arm(kind text, subject text, due_at timestamptz, data json default null, version bigint default null)
returns bigint language plpgsql security definer as $$
#variable_conflict use_variable
declare
    found_revision bigint;
begin
    if kind is null or kind !~ '^[a-z][a-z0-9_]{0,15}$' or kind in ('payment', 'gateway', 'timer', 'webhook') then
        raise exception using errcode = 'OV004',
            message = format('%s is not a kind of timer', coalesce(quote_literal(left(kind, 40)), 'null')),
            hint = 'A kind has 1 to 16 characters of a-z 0-9 _, a letter first, and is none of payment, gateway, timer and webhook.';
    end if;
    if subject is null or subject !~ '^[A-Za-z0-9._:-]{1,64}$' then
        raise exception using errcode = 'OV004',
            message = format('%s is not a subject of a timer', coalesce(quote_literal(left(subject, 80)), 'null')),
            hint = 'A subject has 1 to 64 characters of A-Z a-z 0-9 . _ : -';
    end if;
    if due_at is null or due_at not between '2000-01-01Z' and '9000-01-01Z' then
        raise exception using errcode = 'OV004',
            message = format('a timer cannot be due at %s', coalesce(due_at::text, 'null')),
            hint = 'Give a time between the years 2000 and 9000. One in the past fires at once.';
    end if;
    if octet_length(data::text) > 8192 then
        raise exception using errcode = 'OV004',
            message = format('the data of a timer has at most 8192 bytes, these are %s', octet_length(data::text)),
            hint = 'Keep what is large in a table of your own, and give its key.';
    end if;
    insert into timers as t (kind, subject, due_at, data, version)
    values (kind, subject, due_at, data, version)
    on conflict on constraint timers_pkey do update
    set due_at = excluded.due_at, data = excluded.data, state = 'armed', version = coalesce(excluded.version, t.version)
    where (excluded.version is null or t.version is null or excluded.version > t.version)
      and (t.state = 'cancelled' or t.due_at <> excluded.due_at or t.data::text is distinct from excluded.data::text
           or excluded.version is not null)
    returning t.revision into found_revision;
    if found_revision is null then
        select t.revision into found_revision from timers t where t.kind = overdue_arm.kind and t.subject = overdue_arm.subject;
    end if;
    return found_revision;
end
$$;
comment on function overdue_arm is 'Arms a timer, or moves it, in the transaction of the caller.';

-- Cancels a timer. Returns whether it does not fire any more: false where it has fired, or there is none. With a `version` it is
-- on record even where there is none, so that an older command to arm it, which comes later, does nothing.
create function overdue_cancel(kind text, subject text, version bigint default null)
returns boolean language plpgsql security definer as $$
#variable_conflict use_variable
declare
    found_state text;
begin
    if version is not null and kind ~ '^[a-z][a-z0-9_]{0,15}$' and kind not in ('payment', 'gateway', 'timer', 'webhook')
       and subject ~ '^[A-Za-z0-9._:-]{1,64}$' then
        insert into timers as t (kind, subject, due_at, state, version)
        values (kind, subject, date_trunc('second', clock_timestamp()), 'cancelled', version)
        on conflict on constraint timers_pkey do update
        set state = case when t.state = 'armed' then 'cancelled' else t.state end, version = excluded.version,
            changed_at = case when t.state = 'armed' then clock_timestamp() else t.changed_at end
        where t.version is null or excluded.version > t.version;
    elsif version is null then
        update timers t set state = 'cancelled', changed_at = clock_timestamp()
        where t.kind = overdue_cancel.kind and t.subject = overdue_cancel.subject and t.state = 'armed';
    end if;
    select t.state into found_state from timers t where t.kind = overdue_cancel.kind and t.subject = overdue_cancel.subject;
    return coalesce(found_state = 'cancelled', false);
end
$$;
comment on function overdue_cancel is 'Cancels a timer, in the transaction of the caller; false: it has fired, or there is none.';

-- They write where the role that calls them may have no right to, and find the tables that are found now. Whoever is to call them
-- is given the right to, such as by the role overdue_timers of docs/database-roles.sql.
do $$
begin
    execute format('alter function overdue_timer_armed set search_path = %s, pg_temp', current_setting('search_path'));
    execute format('alter function overdue_arm set search_path = %s, pg_temp', current_setting('search_path'));
    execute format('alter function overdue_cancel set search_path = %s, pg_temp', current_setting('search_path'));
    revoke execute on function overdue_arm, overdue_cancel from public;
    -- Whoever may execute one of these can have it run for a table of his own, with the rights of their owner. The triggers that
    -- there are need no such right.
    revoke execute on function overdue_timer_armed, overdue_payment_written, overdue_payment_replaced, overdue_order_ended from public;
end
$$;

-- A timer's event is called by its kind.
alter table outbox
    drop constraint if exists outbox_event_check,
    add constraint outbox_event_check check (
        event in ('batch', 'order.closed', 'order.paid', 'payment.late', 'payment.refunded')
        or event ~ '^timer[.][a-z][a-z0-9_]{0,15}$');
comment on column outbox.order_id is 'The order. Of a timer: its kind, a colon, and its subject; of a timer''s event: its subject.';
comment on column outbox.kind is 'What is due: payment (the deadline of an order), gateway (its gateway is to be asked) or timer (a timer is due). Of no meaning for events.';
