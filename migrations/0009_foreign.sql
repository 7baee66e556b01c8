-- What comes from outside: messages that wait for a person, rows that a shop's own transaction writes, and changes of orders
-- that were made by hand.

-- Messages that were set aside for a person. The worker takes them out of the queue of parked messages into this table, so
-- that to look at one hides it from nobody.
create table parked (
    id          bigint generated always as identity primary key,
    reason      text not null,
    detail      text,
    orders      text[] not null default '{}',
    routing_key text not null,
    properties  jsonb not null default '{}',
    headers     jsonb not null default '{}',
    body        bytea not null,
    attempts    integer not null default 0,
    history     text[] not null default '{}',
    fingerprint bytea not null,
    times       bigint not null default 1,
    first_at    timestamptz not null,
    last_at     timestamptz not null,
    state       text not null default 'held' check (state in ('held', 'requeued', 'dropped')),
    changed_at  timestamptz,
    changed_by  text,
    check ((state = 'held') = (changed_at is null))
);
comment on table parked is 'Messages that were set aside for a person. `overdue parked` lists them, sends them in again and drops them.';
comment on column parked.fingerprint is 'The same for messages that are the same: they share a row.';
comment on column parked.times is 'How often the same message came.';
comment on column parked.first_at is 'When it first came; last_at: when it last did.';
comment on column parked.changed_at is 'When it was sent in again, or dropped. A day later the row is deleted.';

create unique index parked_once on parked (fingerprint) where state = 'held';
create index parked_held on parked (reason, id) where state = 'held';
create index parked_by_order on parked using gin (orders);
create index parked_done on parked (changed_at) where state <> 'held';

-- A checkout must not fail for what does not matter. A row of the outbox that is no timeout is parked by the relay; a trace that
-- is none is left out; a deadline at the edge of time is cut to what clocks can hold.
alter table outbox
    drop constraint if exists outbox_order_id_check,
    drop constraint if exists outbox_due_at_check,
    drop constraint if exists outbox_traceparent_check,
    drop constraint if exists outbox_kind_check;

-- One trade may be for several orders, and its number may be long. One payment still pays one order.
drop index if exists payments_by_trade;
create index payments_by_trade on payments using hash (trade_no) where trade_no is not null;
alter table payments drop constraint if exists payments_created_at_check;

-- What is changed by hand is a part of an order's story, too: a deadline that is moved, an order that is opened again. Both are
-- written down, and armed again. Where `orders` is a view, its table needs the like; docs/contract.md has it.
create function overdue_order_moved() returns trigger language plpgsql as $$
begin
    -- Who writes the log himself arms himself.
    if current_setting('overdue.writes_log', true) = 'on' then
        return null;
    end if;
    if new.status = 'pending' and old.status = 'pending' and new.payment_deadline < old.payment_deadline then
        insert into outbox (order_id, due_at) values (new.id, new.payment_deadline);
    end if;
    if old.status <> 'pending' and new.status = 'pending' then
        insert into order_log (order_id, from_status, to_status, reason, actor)
        values (new.id, old.status, 'pending', 'opened again by hand', current_user);
        insert into outbox (order_id, due_at) values (new.id, new.payment_deadline);
    elsif new.status = 'pending' and old.status = 'pending' then
        insert into order_log (order_id, from_status, to_status, reason, actor)
        values (new.id, 'pending', 'pending', 'deadline moved by hand from ' || old.payment_deadline || ' to ' || new.payment_deadline, current_user);
    end if;
    return null;
end
$$;
comment on function overdue_order_moved is 'Writes down, and arms again, what was changed by hand.';

do $$
begin
    if (select relkind in ('r', 'p') from pg_class where oid = to_regclass('orders')) then
        create trigger order_moved after update of payment_deadline, status on orders
            for each row when (new.status = 'pending' and (old.status <> 'pending' or new.payment_deadline is distinct from old.payment_deadline))
            execute function overdue_order_moved();
    end if;
end
$$;
