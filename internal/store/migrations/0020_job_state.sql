-- job_state says of every job what state it is in. Whatever shows a state reads it here.
CREATE VIEW bearmq.job_state AS
SELECT j.id, l.channel, l.priority, j.name, j.group_key,
  CASE
    WHEN o.state = 'c' THEN 'completed'
    WHEN o.state = 'f' THEN 'failed'
    WHEN o.state = 'x' THEN 'cancelled'
    WHEN t.state = 'c' THEN 'running'
    WHEN t.state IS NULL AND EXISTS (SELECT 1 FROM bearmq.lease s JOIN bearmq.log_interval i ON i.id = s.interval_id
      WHERE s.lane = j.lane AND NOT s.finished AND (j.xid, j.id) > (s.lo_xid, s.lo_id) AND (j.xid, j.id) <= (s.hi_xid, s.hi_id)
        AND pg_visible_in_snapshot(j.xid, i.ahead) AND NOT pg_visible_in_snapshot(j.xid, i.behind)) THEN 'running'
    WHEN EXISTS (SELECT 1 FROM bearmq.cancellation c WHERE c.job_id = j.id) THEN 'cancelled'
    WHEN t.state = 'b' THEN 'blocked'
    WHEN t.state = 'n' THEN 'parked'
    WHEN t.state = 'd' AND t.attempt > 1 THEN 'retrying'
    WHEN t.state = 'd' THEN 'scheduled'
    ELSE 'queued'
  END AS state,
  coalesce(o.attempt, t.attempt, 1) AS attempt, coalesce(t.losses, 0) AS losses, t.run_at, j.created_at, o.finished_at, o.seconds,
  j.payload, o.result, o.error
FROM bearmq.job j
LEFT JOIN bearmq.lane l ON l.id = j.lane
LEFT JOIN bearmq.ticket t ON t.job_id = j.id
LEFT JOIN bearmq.outcome o ON o.job_id = j.id
WHERE j.name IS NOT NULL;
COMMENT ON VIEW bearmq.job_state IS 'the state of every job: queued, scheduled, blocked, parked, running, retrying, completed, failed, cancelled';
