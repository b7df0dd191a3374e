-- find_work_v1 tells, of each lane that is served and not paused, whether its log has rows beyond the cursor, whether
-- tickets are due, whether one of p_names is waited for, and in how many seconds the next ticket falls due. It is a read: it
-- locks nothing and takes no transaction id. p_channels NULL is all channels. Dead index entries pile up before the tickets
-- that are due, so it looks back p_back at most; NULL looks at all.
-- Index: lease_cursor newest first, job_log by ranges, ticket_due, ticket_named.
CREATE FUNCTION bearmq.find_work_v1(p_channels text[], p_names text[], p_alone boolean, p_back interval)
RETURNS TABLE (lane integer, channel text, priority smallint, log boolean, due boolean, next_due double precision)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_now  timestamptz := clock_timestamp();  -- variables: an index takes no volatile function
  v_from timestamptz := coalesce(v_now - p_back, '-infinity');
  v_snap pg_snapshot := pg_current_snapshot();
BEGIN
  PERFORM bearmq.guard_v1(false);
  RETURN QUERY
  SELECT l.id, l.channel, l.priority,
    EXISTS (SELECT 1 FROM bearmq.log_after_v1(l.id, c.behind, c.ahead, c.hi_xid, c.hi_id, 1))
      OR EXISTS (SELECT 1 FROM bearmq.log_after_v1(l.id, c.ahead, v_snap, '0', 0, 1)),
    coalesce(d.run_at <= v_now, false)
      OR p_alone AND EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.state = 'd' AND t.lane = l.id AND t.alone AND t.run_at <= v_now)
      OR EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.state = 'n' AND t.lane = l.id) AND EXISTS (SELECT 1 FROM unnest(p_names) u(name),
           LATERAL (SELECT 1 FROM bearmq.ticket t WHERE t.state = 'n' AND t.lane = l.id AND t.name = u.name AND (p_alone OR NOT t.alone)
                      AND t.run_at <= v_now LIMIT 1) t),
    extract(epoch FROM least(d.run_at, (SELECT t.run_at FROM bearmq.ticket t
      WHERE p_alone AND t.state = 'd' AND t.lane = l.id AND t.alone AND t.run_at > v_now ORDER BY t.run_at LIMIT 1)) - v_now)::double precision
  FROM bearmq.lane l,
    LATERAL (SELECT c.hi_xid, c.hi_id, i.behind, i.ahead FROM (
        SELECT * FROM bearmq.lease c WHERE c.lane = l.id ORDER BY c.id DESC LIMIT 1) c,
      LATERAL (SELECT * FROM bearmq.log_interval i WHERE i.id = c.interval_id) i) c
    LEFT JOIN LATERAL (SELECT t.run_at FROM bearmq.ticket t WHERE t.state = 'd' AND t.lane = l.id AND NOT t.alone
      AND t.run_at >= v_from ORDER BY t.run_at LIMIT 1) d ON true
  WHERE NOT l.paused AND (p_channels IS NULL OR l.channel = ANY (p_channels))
  ORDER BY l.priority DESC, l.id;
END $body$;
