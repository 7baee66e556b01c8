-- Claims refunds whose next step is due. $1: the gateways that can be asked. $2: how many at most. $3: for how many
-- seconds no other process takes them.
with due as materialized (
    select refund_no
    from refunds
    where state in ('requested', 'processing') and next_attempt_at <= statement_timestamp() and gateway = any($1::text[])
    order by next_attempt_at
    limit $2
    for update skip locked
)
update refunds r
set next_attempt_at = clock_timestamp() + $3 * interval '1 second'
from due
where r.refund_no = due.refund_no
returning r.refund_no, r.order_id, r.gateway, r.trade_no, r.transaction_id, r.amount_minor, r.currency, r.reason,
          r.state, r.attempts, extract(epoch from clock_timestamp() - coalesce(r.retried_at, r.created_at))::float8 as age_s
