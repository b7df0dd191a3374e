-- Several jobs, in call order, each in the log or with a ticket for its time.
-- Arrays: $1 lane, $2 name, $3 payload, $4 group, $5 options, $6 delay in seconds or null, $7 time or null
WITH u AS MATERIALIZED (
  SELECT nextval('bearmq.job_id') AS id, i.* FROM (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::double precision[], $7::timestamptz[])
      WITH ORDINALITY u(lane, name, payload, group_key, options, delay, run_at, n) ORDER BY n) i),
j AS (
  INSERT INTO bearmq.job (id, xid, lane, name, payload, group_key, options)
  SELECT id, CASE WHEN delay IS NULL AND run_at IS NULL THEN pg_current_xact_id() END, lane, name, payload::json, group_key, options::json FROM u),
t AS (
  INSERT INTO bearmq.ticket (job_id, lane, name, group_key, state, run_at)
  SELECT id, lane, name, group_key, 'd', greatest(clock_timestamp(), coalesce(run_at, clock_timestamp() + delay * interval '1 second'))
  FROM u WHERE delay IS NOT NULL OR run_at IS NOT NULL),
w AS MATERIALIZED (
  SELECT pg_notify('bearmq_wake', l.id::text) FROM (SELECT DISTINCT lane FROM u) d JOIN bearmq.lane l ON l.id = d.lane
  WHERE EXISTS (SELECT 1 FROM bearmq.sleeper s WHERE s.channels IS NULL OR l.channel = ANY (s.channels)) AND pg_notification_queue_usage() <= 0.5)
SELECT id, (SELECT count(*) FROM w) FROM u ORDER BY n
