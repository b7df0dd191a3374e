-- A tick and its job, or neither: only the one that moves next_at from what everybody saw enqueues.
-- $1 name, $2 spec, $3 next_at as seen, $4 the next one, $5 lane, $6 payload, $7 group, $8 delay in seconds or null
WITH s AS (
  UPDATE bearmq.schedule SET next_at = $4, last_at = $3 WHERE name = $1 AND spec = $2 AND next_at = $3 AND NOT paused AND NOT removed RETURNING name),
j AS (
  INSERT INTO bearmq.job (xid, lane, name, payload, group_key)
  SELECT CASE WHEN $8::double precision IS NULL THEN pg_current_xact_id() END, $5, name, $6::json, $7 FROM s RETURNING id),
t AS (
  INSERT INTO bearmq.ticket (job_id, lane, name, group_key, state, run_at)
  SELECT id, $5, $1, $7, 'd', clock_timestamp() + $8 * interval '1 second' FROM j WHERE $8 IS NOT NULL)
SELECT id, bearmq.notify_lanes_v1(ARRAY[$5::integer], NULL) IS NULL FROM j
