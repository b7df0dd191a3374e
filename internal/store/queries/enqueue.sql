-- One job, at once: the row of the log, and a word to whoever sleeps on its channel, as by notify_lanes_v1.
-- $1 lane, $2 name, $3 payload, $4 group, $5 options, $6 channel
WITH j AS (
  INSERT INTO bearmq.job (lane, name, payload, group_key, options) VALUES ($1, $2, $3, $4, $5) RETURNING id)
SELECT id, (SELECT pg_notify('bearmq_wake', $1::integer::text) IS NULL FROM (
  SELECT 1 FROM bearmq.sleeper WHERE channels IS NULL OR $6::text = ANY (channels) LIMIT 1) s WHERE pg_notification_queue_usage() <= 0.5) FROM j
