-- Records how a step of a refund ended, unless it has come to its end before. $1: refund number. $2: state. $3: attempts;
-- null: as they are. $4: problem. $5: after how many seconds the next step is due. $6: when the money arrived; null: now.
with recorded as (
    update refunds
    set state = $2, attempts = coalesce($3, attempts), problem = $4,
        next_attempt_at = clock_timestamp() + $5 * interval '1 second',
        succeeded_at = case when $2 = 'succeeded' then coalesce($6, clock_timestamp()) end,
        updated_at = clock_timestamp()
    where refund_no = $1 and state <> 'succeeded'
      and (state <> 'needs_person' or $2 = 'succeeded')
    returning *
),
announced as (
    insert into outbox (order_id, due_at, traceparent, event, event_id, data)
    select e.*
    from recorded r,
         overdue_event('payment.refunded', r.order_id, 'payment-refunded:' || r.refund_no, r.updated_at, null, r.amount_minor, r.currency,
             fact_at => r.succeeded_at, transaction_id => r.transaction_id, gateway => r.gateway, refund_no => r.refund_no) e
    where r.state = 'succeeded'
)
select 1 from recorded
