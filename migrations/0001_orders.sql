-- Orders, their items and the stock they reserve; what happened to them; and the messages that must go out.
--
-- IDs sort by byte (collate "C"): comparing is cheap, and everybody locks rows in the same order.
-- Statuses are texts under a CHECK and not an enum, which could not lose a value again.
-- Every primary key contains what a table would be hash-partitioned by.

create table inventory (
    sku_id    text collate "C" primary key check (sku_id <> ''),
    available bigint not null check (available >= 0),
    reserved  bigint not null default 0 check (reserved >= 0)
);
comment on table inventory is 'Stock. A pending order reserves its items: they move from available to reserved, and back when it closes.';

create table orders (
    id               text collate "C" primary key check (id ~ '^[A-Za-z0-9._:-]{1,64}$'),
    status           text not null default 'pending' check (status in ('pending', 'paid', 'cancelled', 'closed')),
    amount_minor     bigint not null check (amount_minor >= 0),
    currency         text not null check (currency ~ '^[A-Z]{3}$'),
    payment_deadline timestamptz not null check (payment_deadline between '2000-01-01Z' and '9000-01-01Z'),
    created_at       timestamptz not null default clock_timestamp(),
    paid_at          timestamptz,
    closed_at        timestamptz,
    transaction_id   text check (transaction_id <> ''),
    check ((status = 'paid') = (paid_at is not null)),
    check ((status = 'closed') = (closed_at is not null)),
    check (transaction_id is null or status = 'paid')
);
comment on column orders.amount_minor is 'In the smallest unit of the currency: cents, fen.';

-- Finds what is overdue without touching the far greater number of orders that are settled.
create index orders_pending_by_deadline on orders (payment_deadline) where status = 'pending';

create table order_items (
    order_id text collate "C" not null references orders (id) on delete cascade,
    sku_id   text collate "C" not null references inventory (sku_id),
    quantity bigint not null check (quantity > 0),
    primary key (order_id, sku_id)
);

-- The log, the keys and the outbox refer to orders by ID alone. They are written in bulk, and the log must be
-- able to outlive the order.
create table order_log (
    id              bigint generated always as identity,
    order_id        text collate "C" not null,
    from_status     text check (from_status in ('pending', 'paid', 'cancelled', 'closed')),
    to_status       text not null check (to_status in ('pending', 'paid', 'cancelled', 'closed')),
    reason          text not null check (reason <> ''),
    actor           text not null check (actor <> ''),
    idempotency_key text,
    at              timestamptz not null default clock_timestamp(),
    check (from_status is distinct from to_status),
    primary key (order_id, id)
);
comment on column order_log.from_status is 'Null for the row that the creation of the order writes.';

create table idempotency_keys (
    key        text collate "C" primary key,
    order_id   text collate "C" not null,
    outcome    text not null check (outcome <> ''),
    created_at timestamptz not null default clock_timestamp()
);
comment on table idempotency_keys is 'What was done under a key, such as payment-timeout:<order>:<deadline>. Rows may be deleted once no duplicate can arrive any more.';

create table outbox (
    id            bigint generated always as identity primary key,
    order_id      text collate "C" not null check (order_id ~ '^[A-Za-z0-9._:-]{1,64}$'),
    due_at        timestamptz not null check (due_at between '2000-01-01Z' and '9000-01-01Z'),
    created_at    timestamptz not null default clock_timestamp(),
    claimed_until timestamptz
);
comment on table outbox is 'Orders whose timeout has still to be sent to RabbitMQ. Written in the transaction that creates the order; the relay deletes what it has sent.';
comment on column outbox.claimed_until is 'Until then one relay is at it; afterwards it is presumed dead and another may take the row.';

-- Small, and all of it rewritten again and again.
alter table outbox set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- Wakes the relays, whoever inserts: this program, or a service in another language.
create function overdue_wake_relay() returns trigger language plpgsql as $$
begin
    perform pg_notify('overdue_outbox', '');
    return null;
end
$$;

create trigger outbox_wakes_relay after insert on outbox
    for each statement execute function overdue_wake_relay();
