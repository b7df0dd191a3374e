-- delete_finished_v1 reads up to p_n outcomes behind the job p_after, in the order of ids, and deletes those that are over,
-- each with its job and its errors: a completed one p_keep after its end, a failed one p_keep_failed. It says how far it came,
-- and whether there may be more behind: a job cannot be over that was enqueued too late for it. What it leaves, because it
-- finished long after others that were enqueued with it, is found when somebody begins again from 0. An index of the times at
-- which jobs finished would find it at once; it costs each job 70 bytes of WAL, and all of them a tenth of their speed.
-- One at a time: another deletes nothing meanwhile.
-- Index: the keys of outcome, job, ticket and attempt_error. Locks: outcomes in the order of ids.
CREATE FUNCTION bearmq.delete_finished_v1(p_keep interval, p_keep_failed interval, p_after bigint, p_n integer)
RETURNS TABLE (deleted bigint, reached bigint, more boolean)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $body$
DECLARE
  v_now    timestamptz := clock_timestamp();
  v_done   timestamptz := v_now - p_keep;
  v_failed timestamptz := v_now - p_keep_failed;
  v_ids    bigint[];
  v_erred  bigint[];
  v_left   bigint;   -- the first that is not over
BEGIN
  PERFORM bearmq.guard_v1(false);
  deleted := 0; reached := p_after; more := false;
  IF NOT pg_try_advisory_xact_lock(hashtextextended('bearmq delete', 'bearmq.outcome'::regclass::oid::bigint)) THEN
    RETURN NEXT; RETURN;
  END IF;
  SELECT array_agg(d.job_id) FILTER (WHERE d.over), array_agg(d.job_id) FILTER (WHERE d.over AND d.erred), min(d.job_id) FILTER (WHERE NOT d.over), coalesce(max(d.job_id), p_after), count(*) = p_n
  INTO v_ids, v_erred, v_left, reached, more
  FROM (
    SELECT o.job_id, o.attempt > 1 OR o.state = 'f' AS erred,
      o.finished_at < CASE WHEN o.state = 'f' THEN v_failed ELSE v_done END
        -- a ticket that is still claimed belongs to a CompleteTx whose finish is on its way
        AND NOT EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = o.job_id OFFSET 0) AS over
    FROM bearmq.outcome o WHERE o.job_id > p_after ORDER BY o.job_id LIMIT p_n) d;
  more := more AND EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = reached AND j.created_at < greatest(v_done, v_failed));
  IF NOT more THEN reached := least(reached, v_left - 1); END IF;
  IF v_ids IS NULL THEN
    RETURN NEXT; RETURN;
  END IF;
  -- One that was given another attempt meanwhile has no outcome any more, and stays.
  WITH gone AS (DELETE FROM bearmq.outcome o WHERE o.job_id = ANY (v_ids) RETURNING o.job_id)
  SELECT array_agg(g.job_id) INTO v_ids FROM gone g;
  DELETE FROM bearmq.job j WHERE j.id = ANY (v_ids);
  DELETE FROM bearmq.attempt_error e WHERE e.job_id = ANY (ARRAY(SELECT unnest(v_erred) INTERSECT SELECT unnest(v_ids)));
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
  PERFORM bearmq.guard_v1(false);
  SELECT array_agg(a.key ORDER BY a.key) INTO v_keys FROM (
    SELECT a.key FROM bearmq.group_anchor a WHERE a.key > p_after ORDER BY a.key LIMIT p_n FOR UPDATE SKIP LOCKED) a;
  SELECT array_agg(k) INTO v_idle FROM unnest(v_keys) k, LATERAL bearmq.group_state_v1(k) g
    WHERE g.lease_id IS NULL AND g.holder_job IS NULL AND NOT g.blocked AND g.ver < v_before;
  DELETE FROM bearmq.job_group g WHERE g.key = ANY (v_idle);
  DELETE FROM bearmq.group_anchor a WHERE a.key = ANY (v_idle);
  deleted := coalesce(cardinality(v_idle), 0);
  reached := CASE WHEN cardinality(v_keys) = p_n THEN v_keys[p_n] END;
  RETURN NEXT;
END $body$;

-- sweep_v1 deletes what is left over: finished leases that are no longer their lane's cursor, intervals that no lease reads,
-- sleepers whose session is dead, processes that wait for nothing any more, cancellations of jobs that are over, and sessions that died an hour ago and hold nothing. A lease whose session is missing gets
-- one back, a dead one, so that recovery finds it.
-- Index: lease_cursor, log_interval_lane, lease_session.
CREATE FUNCTION bearmq.sweep_v1() RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  PERFORM bearmq.guard_v1(false);
  DELETE FROM bearmq.lease l WHERE l.finished AND l.lane IS NOT NULL
    AND l.id < (SELECT n.id FROM bearmq.lease n WHERE n.lane = l.lane ORDER BY n.id DESC LIMIT 1);
  DELETE FROM bearmq.log_interval i USING (SELECT l.lane, min(l.interval_id) AS id FROM bearmq.lease l WHERE l.lane IS NOT NULL GROUP BY l.lane) m
    WHERE i.lane = m.lane AND i.id < m.id;
  INSERT INTO bearmq.session (id, expires_at, ttl, pid, host)
    SELECT DISTINCT l.session_id, clock_timestamp(), interval '0', 0, '' FROM bearmq.lease l
    WHERE NOT l.finished AND NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = l.session_id)
    ON CONFLICT (id) DO NOTHING;
  DELETE FROM bearmq.cancellation c WHERE c.ctid = ANY (ARRAY(SELECT x.ctid FROM bearmq.cancellation x
    WHERE NOT EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = x.job_id OFFSET 0) OR EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = x.job_id OFFSET 0)
    FOR UPDATE SKIP LOCKED));
  DELETE FROM bearmq.awaiter a WHERE a.expires_at < clock_timestamp();
  DELETE FROM bearmq.sleeper p WHERE NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = p.session_id AND NOT s.dead);
  DELETE FROM bearmq.session s WHERE s.dead AND s.expires_at < clock_timestamp() - interval '1 hour'
    AND NOT EXISTS (SELECT 1 FROM bearmq.lease l WHERE l.session_id = s.id AND NOT l.finished);
END $body$;
