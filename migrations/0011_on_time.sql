-- Relays look at the outbox some times a second. A notification at each commit took a lock that all commits of the PostgreSQL
-- cluster share, so whoever armed orders waited for all others who did.
drop trigger outbox_wakes_relay on outbox;
drop function overdue_wake_relay();
