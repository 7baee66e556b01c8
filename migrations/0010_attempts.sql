-- Payments are attempts: an order may have several, at one gateway or at more, and each is followed until it can bring no money
-- any more.

-- The gateways as every process knows them. A process whose settings differ does not start.
create table gateways (
    name          text primary key check (name <> '' and name <> 'none'),
    account       text,
    trade_nos     text,
    rule          text,
    is_default    boolean not null default false,
    default_since timestamptz,
    registered_at timestamptz not null default clock_timestamp(),
    check (is_default = (default_since is not null))
);
comment on table gateways is 'The payment gateways, as the first process with settings of each has registered them.';
comment on column gateways.account is 'Whose trades they are: a process with another account would hear of none of them; null: as the next process says.';
comment on column gateways.trade_nos is 'What a trade number may be like, as a regular expression; null: anything.';
comment on column gateways.rule is 'The same in words.';
comment on column gateways.is_default is 'Orders without a row in payments are paid here; default_since: since when.';
create unique index gateways_default on gateways (is_default) where is_default;

update payments set trade_no = order_id where trade_no is null;
drop index if exists payments_by_trade;
drop index if exists payments_by_transaction;
alter table payments
    alter column trade_no set not null,
    drop constraint payments_pkey,
    add primary key (order_id, gateway, trade_no),
    add column paid_at       timestamptz,
    add column combined      boolean not null default false,
    add column payable_until timestamptz,
    add column ask_at        timestamptz not null default now();
comment on table payments is 'Attempts to pay orders at gateways. Before an order closes, each of its gateways is asked about each attempt. An order without a row is settled by its own status.';
comment on column payments.trade_no is 'The number of the trade at the gateway: the order''s ID where nothing else is said.';
comment on column payments.paid_at is 'When it was paid, as the gateway says; null: not paid, or it does not say.';
comment on column payments.combined is 'The gateway says that its transaction pays several trades at once.';
comment on column payments.payable_until is 'Until then a trade that the gateway does not know may still appear; null: as long as is usual there.';
comment on column payments.ask_at is 'When the sweep looks at it, once its order has ended, if no message did before.';
create index payments_by_trade on payments using hash (trade_no);
-- One transaction pays one trade, unless the gateway says otherwise.
create unique index payments_by_transaction on payments (transaction_id, gateway) where transaction_id is not null and not combined;
create index payments_by_combined on payments (transaction_id, gateway) where combined;
create index payments_to_ask on payments (ask_at) where state = 'open';
update payments p set ask_at = greatest(least(o.payment_deadline, '9000-01-01Z'), '2000-01-01Z')
from orders o where o.id = p.order_id and p.state = 'open';

-- Earlier versions gave up a trade that was missing twice. Some may appear still.
update payments set state = 'open', ask_at = now()
where state = 'closed' and not_found_at is not null and prepay <> 'created' and gateway <> 'none';

-- What a row of payments says when it is written. A payment begins when a row says `attempted` for the first time. None begins for
-- an order that has ended: this alone fails the shop's transaction, since the customer would pay for nothing.
create function overdue_payment_written() returns trigger language plpgsql security definer as $$
declare
    o record;
    g record;
    is_new boolean := tg_op = 'INSERT';
    begins boolean := new.prepay = 'attempted';
begin
    new.trade_no := coalesce(new.trade_no, new.order_id);
    if new.gateway = 'none' or current_setting('overdue.keeps_attempt', true) = 'on' then
        return new;
    end if;
    if tg_op = 'UPDATE' and (new.gateway, new.trade_no) is distinct from (old.gateway, old.trade_no) then
        -- It stands for another trade now, of which nothing is known yet.
        is_new := true;
        if new.state = old.state then
            new.state := 'open';
            new.transaction_id := null;
            new.paid_at := null;
        end if;
        if new.prepay = old.prepay and new.prepay = 'created' then
            new.prepay := 'attempted';
        end if;
        if new.created_at = old.created_at then
            new.created_at := clock_timestamp();
        end if;
        new.not_found_at := null;
    elsif tg_op = 'UPDATE' then
        begins := begins and old.state <> 'paid' and (old.prepay = 'none' or (old.state = 'closed' and new.state = 'open'));
        if begins then
            new.state := 'open';
            new.not_found_at := null;
            if new.created_at = old.created_at then
                new.created_at := clock_timestamp();
            end if;
        end if;
    end if;
    if new.state = 'open' and (is_new or begins) then
        select status::text as status, payment_deadline, amount_minor into o from orders where id = new.order_id;
        new.ask_at := greatest(least(coalesce(o.payment_deadline, clock_timestamp()), '9000-01-01Z'), '2000-01-01Z');
        -- What a gateway has said is written down as it is.
        if new.not_found_at is not null or new.prepay = 'created' then
            return new;
        end if;
        if begins and o.status <> 'pending' then
            raise exception using errcode = 'OV001',
                message = format('order %s is %s: no payment may begin for it', new.order_id, o.status),
                hint = 'Do not call the gateway. Create a new order.';
        end if;
        if is_new and o.amount_minor <= 0 then
            raise exception using errcode = 'OV002',
                message = format('order %s has nothing to pay, and a gateway takes no payments of nothing', new.order_id),
                hint = 'Mark it as paid, or correct its amount.';
        end if;
        select trade_nos, rule into g from gateways where name = new.gateway;
        if is_new and new.trade_no !~ g.trade_nos then
            raise exception using errcode = 'OV003',
                message = format('the gateway %s takes no trade number like %s: %s', new.gateway, left(new.trade_no, 100), g.rule),
                hint = 'Give the payment a trade_no of its own.';
        end if;
    end if;
    return new;
end
$$;
comment on function overdue_payment_written is 'Completes a row of payments, and refuses one that would have a customer pay for an order that has ended.';

create trigger payment_written before insert or update of gateway, trade_no, prepay, state on payments
    for each row execute function overdue_payment_written();

-- A row whose trade number or gateway is changed leaves its old trade behind: a customer may have it open, and pay it still.
create function overdue_payment_replaced() returns trigger language plpgsql security definer as $$
begin
    perform set_config('overdue.keeps_attempt', 'on', true);
    insert into payments (order_id, gateway, trade_no, prepay, state, transaction_id, paid_at, combined, not_found_at, created_at, payable_until, ask_at)
    values (old.order_id, old.gateway, old.trade_no, old.prepay, old.state, old.transaction_id, old.paid_at, old.combined, old.not_found_at,
            old.created_at, old.payable_until, old.ask_at)
    on conflict do nothing;
    perform set_config('overdue.keeps_attempt', 'off', true);
    return null;
end
$$;
comment on function overdue_payment_replaced is 'Keeps an attempt on record whose row was made to stand for another.';

create trigger payment_replaced after update of gateway, trade_no on payments
    for each row when ((old.gateway, old.trade_no) is distinct from (new.gateway, new.trade_no) and old.gateway <> 'none')
    execute function overdue_payment_replaced();

-- Begins an attempt, in the transaction of the shop: the safest way, since it holds the order's lock while it looks. Call it before
-- the gateway, and call the gateway only when this is committed.
create function overdue_begin_payment(id text, gateway text, trade_no text default null) returns void language plpgsql as $$
#variable_conflict use_variable
declare
    o record;
begin
    select status::text as status, payment_deadline into o from orders where orders.id = overdue_begin_payment.id for no key update;
    if not found then
        raise exception using errcode = 'OV001', message = format('there is no order %s', id), hint = 'Do not call the gateway.';
    end if;
    if o.status <> 'pending' then
        raise exception using errcode = 'OV001', message = format('order %s is %s: no payment may begin for it', id, o.status),
            hint = 'Do not call the gateway. Create a new order.';
    end if;
    if o.payment_deadline <= clock_timestamp() then
        raise exception using errcode = 'OV001',
            message = format('the deadline of order %s has passed (%s): no payment may begin for it', id, o.payment_deadline),
            hint = 'Do not call the gateway. Extend the order first.';
    end if;
    insert into payments as p (order_id, gateway, trade_no, prepay)
    values (id, gateway, coalesce(trade_no, id), 'attempted')
    on conflict on constraint payments_pkey do update
    set prepay = case when p.prepay = 'none' then 'attempted' else p.prepay end,
        state = case when p.state = 'closed' then 'open' else p.state end,
        not_found_at = null;
end
$$;
comment on function overdue_begin_payment is 'Begins an attempt to pay an order at a gateway, or refuses with OV001: then the gateway must not be called.';

-- An order that was paid or cancelled may have trades that are open still: they are closed at their gateways at once. Where `orders`
-- is a view, its table needs the like.
create function overdue_order_ended() returns trigger language plpgsql security definer as $$
begin
    insert into payments (order_id, gateway, prepay)
    select new.id, g.name, 'none' from gateways g
    where g.is_default and new.amount_minor > 0 and new.id ~ coalesce(g.trade_nos, '') and not exists (select from payments p where p.order_id = new.id);
    insert into outbox (order_id, due_at)
    select new.id, clock_timestamp()
    where exists (select from payments p where p.order_id = new.id and p.state = 'open' and p.gateway <> 'none');
    return null;
end
$$;
comment on function overdue_order_ended is 'Has the open trades of an order closed that was paid or cancelled.';

do $$
begin
    if (select relkind in ('r', 'p') from pg_class where oid = to_regclass('orders')) then
        create trigger order_ended after update of status on orders
            for each row when (old.status = 'pending' and new.status in ('paid', 'cancelled'))
            execute function overdue_order_ended();
    end if;
    -- These read and write where the role that changes an order or a payment may have no right to. They find the tables that are
    -- found now.
    execute format('alter function overdue_order_ended set search_path = %s, pg_temp', current_setting('search_path'));
    execute format('alter function overdue_payment_written set search_path = %s, pg_temp', current_setting('search_path'));
    execute format('alter function overdue_payment_replaced set search_path = %s, pg_temp', current_setting('search_path'));
end
$$;

-- Money that cannot be credited is written down however little of it is known, with the gateway's own words.
alter table refunds
    alter column transaction_id drop not null,
    alter column amount_minor drop not null,
    alter column currency drop not null,
    add column said       bytea,
    add column retried_at timestamptz,
    add check (state in ('needs_person', 'succeeded') or (transaction_id is not null and amount_minor is not null and currency is not null));
update refunds set transaction_id = null where refund_no like 'unplaced-%' and transaction_id = 'unknown';
update refunds set amount_minor = null, currency = null where refund_no like 'unplaced-%' and currency = 'XXX';
comment on column refunds.said is 'What the gateway has signed, where a person must look at it.';
comment on column refunds.retried_at is 'When a person had it asked for again.';
comment on column refunds.transaction_id is 'Null, like amount and currency, where the gateway did not tell: then a person must look.';

-- Messages whose orders have settled without them need no person any more.
alter table parked add column note text;
comment on column parked.note is 'Why it was dropped, where no person has dropped it.';
