-- Payments at gateways, and money that goes back.

create table payments (
    order_id       text collate "C" primary key,
    gateway        text not null check (gateway <> ''),
    trade_no       text collate "C" check (trade_no <> ''),
    prepay         text not null default 'attempted' check (prepay in ('none', 'attempted', 'created')),
    state          text not null default 'open' check (state in ('open', 'paid', 'closed')),
    transaction_id text check (transaction_id <> ''),
    not_found_at   timestamptz check (not_found_at between '2000-01-01Z' and '9000-01-01Z'),
    created_at     timestamptz not null default clock_timestamp() check (created_at between '2000-01-01Z' and '9000-01-01Z'),
    check ((state = 'paid') = (transaction_id is not null))
);
comment on table payments is 'Orders whose payment a gateway knows of: it is asked before such an order closes. An order without a row is settled by its own status.';
comment on column payments.trade_no is 'The number of the trade at the gateway, where it is not the order''s ID.';
comment on column payments.prepay is 'none: the gateway was not called; attempted: it was, or is about to be; created: it has confirmed the trade.';
comment on column payments.state is 'What the gateway has said in the end: paid, or closed (nobody can pay any more).';
comment on column payments.not_found_at is 'When the gateway first said that it knows no such trade.';

-- A notification names the trade, not the order.
create unique index payments_by_trade on payments (trade_no, gateway) where trade_no is not null;

-- One payment pays one order.
create unique index payments_by_transaction on payments (transaction_id, gateway) where transaction_id is not null;

create table refunds (
    refund_no       text collate "C" primary key,
    order_id        text collate "C" not null,
    gateway         text not null,
    trade_no        text collate "C" not null,
    transaction_id  text not null,
    amount_minor    bigint not null check (amount_minor >= 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    reason          text not null check (reason <> ''),
    state           text not null default 'requested' check (state in ('requested', 'processing', 'succeeded', 'needs_person')),
    problem         text,
    attempts        integer not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp(),
    succeeded_at    timestamptz,
    check ((state = 'succeeded') = (succeeded_at is not null))
);
comment on table refunds is 'Money that came in for an order that was closed or cancelled already, and goes back once; and money that cannot be placed at all, which needs a person from the start.';
comment on column refunds.refund_no is 'Derived from the order, so that it is the same for every attempt, whoever makes it. Money that cannot be placed has a number by which no gateway is asked.';
comment on column refunds.next_attempt_at is 'Nobody looks at it before; also the lease of whoever is at it now.';

create index refunds_by_order on refunds (order_id);

create index refunds_to_follow_up on refunds (next_attempt_at) where state in ('requested', 'processing');
