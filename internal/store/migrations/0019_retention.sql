-- delete_finished_v1 deletes up to p_n jobs that finished longer than p_keep ago, each with its outcome and errors: the
-- failed ones, or the others. p_from is the last time it reached, so that what was deleted before is not read again.
-- Index: outcome_finished, the keys of job, outcome and attempt_error.
CREATE FUNCTION bearmq.delete_finished_v1(p_failed boolean, p_keep interval, p_from timestamptz, p_n integer)
RETURNS TABLE (deleted bigint, reached timestamptz)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
DECLARE
  v_before timestamptz := clock_timestamp() - p_keep;
  v_ids    bigint[];
BEGIN
  SELECT array_agg(d.job_id), max(d.finished_at) INTO v_ids, reached FROM (
    SELECT o.job_id, o.finished_at FROM bearmq.outcome o
    WHERE o.finished_at >= coalesce(p_from, '-infinity') AND o.finished_at < v_before AND (o.state = 'f') = p_failed
      -- a ticket that is still claimed belongs to a CompleteTx whose finish is on its way
      AND NOT EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = o.job_id OFFSET 0)
    ORDER BY o.finished_at LIMIT p_n FOR UPDATE SKIP LOCKED) d;
  DELETE FROM bearmq.outcome o WHERE o.job_id = ANY (v_ids);
  DELETE FROM bearmq.job j WHERE j.id = ANY (v_ids);
  DELETE FROM bearmq.attempt_error e WHERE e.job_id = ANY (v_ids);
  deleted := coalesce(cardinality(v_ids), 0);
  RETURN NEXT;
END $body$;

-- collect_groups_v1 deletes the groups behind p_after that have been idle for p_idle, of the next p_n ones in key order. It
-- returns how many, and the last key it looked at: NULL at the end.
-- Index: the keys of group_anchor and job_group. Locks: anchors (SKIP LOCKED).
CREATE FUNCTION bearmq.collect_groups_v1(p_after text, p_idle interval, p_n integer)
RETURNS TABLE (deleted bigint, reached text)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
DECLARE
  v_before bigint := (extract(epoch FROM clock_timestamp() - p_idle) * 1e6)::bigint;
  v_keys   text[];
  v_idle   text[];
BEGIN
  SELECT array_agg(a.key ORDER BY a.key) INTO v_keys FROM (
    SELECT a.key FROM bearmq.group_anchor a WHERE a.key > p_after ORDER BY a.key LIMIT p_n FOR UPDATE SKIP LOCKED) a;
  SELECT array_agg(k) INTO v_idle FROM unnest(v_keys) k WHERE NOT EXISTS (
    SELECT 1 FROM (SELECT * FROM bearmq.job_group g WHERE g.key = k ORDER BY g.ver DESC LIMIT 1) g
    WHERE g.lease_id IS NOT NULL OR g.holder_job IS NOT NULL OR g.blocked OR g.ver >= v_before);
  DELETE FROM bearmq.job_group g WHERE g.key = ANY (v_idle);
  DELETE FROM bearmq.group_anchor a WHERE a.key = ANY (v_idle);
  deleted := coalesce(cardinality(v_idle), 0);
  reached := CASE WHEN cardinality(v_keys) = p_n THEN v_keys[p_n] END;
  RETURN NEXT;
END $body$;

-- sweep_v1 deletes what is left over: finished leases that are no longer their lane's cursor, intervals that no lease reads,
-- sleepers whose session is dead, and sessions that died an hour ago and hold nothing. A lease whose session is missing gets
-- one back, a dead one, so that recovery finds it.
-- Index: lease_cursor, log_interval_lane, lease_session.
CREATE FUNCTION bearmq.sweep_v1() RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  DELETE FROM bearmq.lease l WHERE l.finished AND l.lane IS NOT NULL
    AND l.id < (SELECT n.id FROM bearmq.lease n WHERE n.lane = l.lane ORDER BY n.id DESC LIMIT 1);
  DELETE FROM bearmq.log_interval i USING (SELECT l.lane, min(l.interval_id) AS id FROM bearmq.lease l WHERE l.lane IS NOT NULL GROUP BY l.lane) m
    WHERE i.lane = m.lane AND i.id < m.id;
  INSERT INTO bearmq.session (id, expires_at, ttl, pid, host)
    SELECT DISTINCT l.session_id, clock_timestamp(), interval '0', 0, '' FROM bearmq.lease l
    WHERE NOT l.finished AND NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = l.session_id)
    ON CONFLICT (id) DO NOTHING;
  DELETE FROM bearmq.sleeper p WHERE NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = p.session_id AND s.expires_at > clock_timestamp());
  DELETE FROM bearmq.session s WHERE s.expires_at < clock_timestamp() - interval '1 hour'
    AND NOT EXISTS (SELECT 1 FROM bearmq.lease l WHERE l.session_id = s.id AND NOT l.finished);
END $body$;
