-- Database roles with no more rights than each part needs. Run this file in Overdue's database, as the owner, after
-- `overdue migrate`, and again after an upgrade. The roles cannot log in. Grant them to users of your own, such as
--
--     create user relay_1 password '…' in role overdue_relay;
--
-- and give each process the URL of its own user. `overdue migrate` needs the owner.

do $$
declare
    name text;
begin
    foreach name in array array['overdue_relay', 'overdue_worker', 'overdue_api', 'overdue_operator', 'overdue_timers', 'overdue_webhooks', 'overdue_console'] loop
        if not exists (select 1 from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
end
$$;

-- Every process checks that the schema is the version that it needs.
grant select on overdue_migrations to overdue_relay, overdue_worker, overdue_api, overdue_operator;

-- Relay: publishes the outbox. Of orders it reads status and deadline alone, for metrics.
grant select, update (claimed_until), delete on outbox to overdue_relay;
grant select, insert, update on parked to overdue_relay;

-- Worker and sweep: settle orders. They cannot create them, and cannot change amount or items.
grant select, update (status, paid_at, closed_at, transaction_id) on orders to overdue_worker;
grant select on order_items to overdue_worker;
grant select, update (available, reserved) on inventory to overdue_worker;
grant insert, select (order_id, to_status, at) on order_log to overdue_worker;
grant select (key), insert on idempotency_keys to overdue_worker;
grant insert on outbox to overdue_worker;
grant select, insert, update on payments to overdue_worker;
grant select, insert, update on refunds to overdue_worker;
grant select, insert, update on gateways to overdue_worker;
grant select, insert, update, delete on parked to overdue_worker;
-- Timers: fires those that are due, and deletes old ones. Commands that come by RabbitMQ arm and cancel.
grant select, update (state, fired_at, changed_at), delete on timers to overdue_worker;
grant execute on function overdue_arm, overdue_cancel to overdue_worker;

-- Webhooks: looks which endpoints are stopped, stops one that wants nothing more, and announces that.
grant select on overdue_migrations to overdue_webhooks;
grant select, insert on webhook_endpoints to overdue_webhooks;
grant insert on outbox to overdue_webhooks;

-- A service that may arm and cancel timers, and nothing else.
grant execute on function overdue_arm, overdue_cancel to overdue_timers;

-- API: creates, pays and cancels orders, closes those that a request finds overdue, and deletes its old answers. Arms timers.
grant overdue_worker to overdue_api;
grant update (due_at) on timers to overdue_api;
grant insert, update (payment_deadline) on orders to overdue_api;
grant insert on order_items to overdue_api;
grant select on order_log to overdue_api;
grant select, insert, update, delete on api_requests to overdue_api;

-- Operator: audit, doctor, order show, refunds. Reads everything, and ends the refunds that needed a person.
grant select on orders, order_items, inventory, order_log, idempotency_keys, outbox, payments, refunds, api_requests, timers
    to overdue_operator;
grant execute on function overdue_arm, overdue_cancel to overdue_operator;
grant select, insert, update on parked to overdue_operator;
grant update (state, succeeded_at, updated_at, problem, attempts, next_attempt_at, retried_at) on refunds to overdue_operator;
grant select, update on gateways to overdue_operator;
grant select, insert, delete on webhook_endpoints to overdue_operator;
grant insert on outbox to overdue_operator;

-- Every process says that it is at work. The one that sweeps deletes what is too old.
grant select, insert, update, delete on processes to overdue_relay, overdue_worker, overdue_webhooks;
grant select, insert, update on process_minutes to overdue_relay, overdue_worker, overdue_webhooks;
grant delete on process_minutes to overdue_worker;
-- What happens to orders on their way is written down.
grant insert on order_trail to overdue_relay, overdue_worker, overdue_webhooks;
grant select (at), delete on order_trail to overdue_worker;
grant select on probes to overdue_relay, overdue_worker, overdue_webhooks;
grant select on processes, process_minutes, probes, order_trail, operator_actions, checks to overdue_operator;
-- What operators did is kept for a year.
grant select (id, at, action, state, changed_at), update (state, after, changed_at), delete on operator_actions to overdue_worker;

-- Console: what the operator may; and it closes and extends orders, fires timers, has gateways probed, and writes down who did it.
grant overdue_operator to overdue_console;
grant update (payment_deadline) on orders to overdue_console;
grant insert on order_log to overdue_console;
grant update (due_at) on timers to overdue_console;
grant insert, update on processes, process_minutes, probes, operator_actions, checks to overdue_console;
grant delete on processes to overdue_console;

-- Health and metrics (`--listen`) read these in every process.
grant select (created_at, event, events) on outbox to overdue_worker, overdue_api;
grant select (status, payment_deadline) on orders to overdue_relay;
grant select (state) on refunds to overdue_relay;
grant select (state, due_at, changed_at) on timers to overdue_relay;
grant select (created_at, event, events) on outbox to overdue_webhooks;
grant select (status, payment_deadline) on orders to overdue_webhooks;
grant select (state) on refunds to overdue_webhooks;
grant select (state, due_at, changed_at) on timers to overdue_webhooks;
grant select on parked, payments to overdue_webhooks;
