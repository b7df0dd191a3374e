-- The schedules, what time it is, and whether each is due.
SELECT name, spec, deployed, next_at, last_at, paused, removed, clock_timestamp(), next_at <= clock_timestamp() AND NOT paused AND NOT removed
FROM bearmq.schedule ORDER BY next_at, name
