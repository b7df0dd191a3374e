-- The schedules, what time it is, and whether each is due.
SELECT name, spec, next_at, clock_timestamp(), next_at <= clock_timestamp() FROM bearmq.schedule ORDER BY next_at
