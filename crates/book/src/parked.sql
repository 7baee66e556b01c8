-- Sets a message aside for a person. $1: reason. $2: detail. $3: orders. $4: routing key. $5, $6: properties and headers, as
-- JSON. $7: body. $8: attempts. $9: their results. $10: fingerprint. $11: since when. The same message again only counts.
insert into parked (reason, detail, orders, routing_key, properties, headers, body, attempts, history, fingerprint, first_at, last_at)
values ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7, $8, $9, $10, $11, clock_timestamp())
on conflict (fingerprint) where state = 'held' do update
set times = parked.times + 1, last_at = clock_timestamp(), detail = excluded.detail
