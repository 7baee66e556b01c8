-- What whoever is on call looks at: the processes that are at work, what happened to an order on its way, what operators have done,
-- and what the last checks have found.

create table processes (
    id           uuid primary key,
    host         text not null,
    pid          bigint not null,
    version      text not null,
    roles        text[] not null,
    started_at   timestamptz not null,
    seen_at      timestamptz not null default clock_timestamp(),
    sweep_leader boolean not null default false,
    held_orders  bigint not null default 0,
    counters     jsonb not null default '{}',
    circuits     jsonb not null default '[]',
    late         bigint[] not null default '{}',
    fired        bigint not null default 0,
    rescued      bigint not null default 0
);
comment on table processes is 'The processes of Overdue. Each writes its row every five seconds, and deletes it when it was told to stop.';
comment on column processes.seen_at is 'When it last wrote its row. One that has not done so for 15 seconds is silent: it is dead, or cannot reach the database.';
comment on column processes.sweep_leader is 'Whether it has the lead of the sweep.';
comment on column processes.held_orders is 'Orders that it holds in memory until they are due.';
comment on column processes.counters is 'What it has done since its start, by name.';
comment on column processes.circuits is 'Its circuit breakers, of gateways and of endpoints.';
comment on column processes.late is 'How many orders it has closed since its start, by how late they were: up to 10, 25, 50, 100, 250, 500 ms, 1, 2.5, 5, 15 s, 1, 5, 30, 120 min, and more.';
comment on column processes.fired is 'How many timers it has fired since its start.';
comment on column processes.rescued is 'How many orders and timers its sweep has settled since its start, since no message brought them.';

-- Rewritten again and again, and small.
alter table processes set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

create table process_minutes (
    minute      timestamptz not null,
    process     uuid not null,
    late        bigint[] not null,
    late_max_ms bigint not null default 0,
    fired       bigint not null default 0,
    rescued     bigint not null default 0,
    primary key (minute, process)
);
comment on table process_minutes is 'What each process has done in each minute of the last day.';
comment on column process_minutes.late is 'How many orders it has closed in that minute, by how late they were; the bounds are those of processes.late.';
create index process_minutes_rescued on process_minutes (minute) where rescued > 0;

create table probes (
    kind         text not null check (kind in ('gateway', 'endpoint')),
    name         text not null,
    requested_at timestamptz not null default clock_timestamp(),
    requested_by text not null,
    primary key (kind, name)
);
comment on table probes is 'Gateways and endpoints that an operator wants to be tried at once, although their circuit is open. Each process reads this with its heartbeat.';

-- The way of an order, step by step, as far as it is in no other table. It decides nothing. What there is too much of is left out.
create table order_trail (
    id      bigint generated always as identity,
    subject text collate "C" not null,
    at      timestamptz not null default clock_timestamp(),
    step    text not null check (step in ('relayed', 'announced', 'came', 'sent_on', 'asked', 'notified', 'refund', 'delivered', 'undelivered')),
    actor   text not null,
    detail  text not null,
    primary key (subject, id)
);
comment on table order_trail is 'What happened to an order, or a timer, on its way. Rows are deleted after a week.';
comment on column order_trail.subject is 'The order, or the timer''s kind, a colon and its subject.';
comment on column order_trail.actor is 'The part of the program, the gateway, or the endpoint.';
create index order_trail_by_age on order_trail (at);

create table operator_actions (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    operator   text not null check (operator <> ''),
    role       text not null,
    address    text,
    action     text not null check (action <> ''),
    subject    text not null,
    state      text not null check (state in ('begun', 'done', 'failed', 'refused')),
    note       text,
    before     text,
    after      text,
    total      bigint,
    handled    bigint not null default 0,
    changed_at timestamptz not null default clock_timestamp()
);
comment on table operator_actions is 'What operators have done, and what they were not allowed to. Rows are deleted after a year.';
comment on column operator_actions.state is 'begun: it is under way, or how it ended is not known; then changed_at is old.';
comment on column operator_actions.total is 'How many things it is about, where there are many; handled: how many are done with.';
create index operator_actions_by_subject on operator_actions (subject, id);
create index operator_actions_begun on operator_actions (id) where state = 'begun';
create unique index operator_actions_one_check on operator_actions (action) where state = 'begun' and action in ('doctor.run', 'audit.run');

create table checks (
    name   text primary key check (name in ('doctor', 'audit')),
    ran_at timestamptz not null default clock_timestamp(),
    ran_by text not null,
    took_ms bigint not null,
    report jsonb not null
);
comment on table checks is 'What doctor and audit found when an operator last had them run from the console.';

-- Parked messages get their numbers in the order in which they are committed: whoever has seen one has seen all that have lower numbers,
-- and an operator who handles a group up to a number handles nothing that came later.
create function overdue_parked_in_turn() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('overdue.parked', 0));
    return null;
end $$;
create trigger parked_in_turn before insert on parked for each statement execute function overdue_parked_in_turn();

-- Refunds are found by their age where a person must look at them.
create index refunds_by_age on refunds (created_at desc, refund_no);
create index refunds_needing_person on refunds (created_at) where state = 'needs_person';
