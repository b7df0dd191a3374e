-- claim_log_v1 hands the next p_n rows of a lane's log to a session, under a new lease that becomes the lane's cursor.
-- The lane is locked in a statement of its own, before the cursor is read: a statement that waited for the lock would read
-- the log with a snapshot older than the cursor, and lose rows.
-- Index: lease_cursor newest first, job_log by ranges. Locks: the lane (never waited for), the session (FOR KEY SHARE), then
-- groups in key order.
CREATE FUNCTION bearmq.claim_log_v1(p_lane integer, p_session uuid, p_claim bigint, p_n integer, p_each integer)
RETURNS SETOF bearmq.claimed_v1
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_lane   bearmq.lane;
  v_cursor bearmq.lease;
  v_span   bearmq.log_interval;
  v_own    xid8;
  v_lease  bigint;
  v_sync   text := current_setting('synchronous_commit');
BEGIN
  PERFORM bearmq.guard_v1(true);
  -- A claim without groups need not wait for the disk: should the server crash, the cursor goes back with it, and the random
  -- number of the claim keeps the old lease from being taken for a new one of the same id.
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT * INTO v_lane FROM bearmq.lane l WHERE l.id = p_lane FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'locked', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;
  IF v_lane.paused THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'paused', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;
  -- Locked, so that return_lease_v1 waits for this claim, or else this claim sees that it was given back already.
  PERFORM 1 FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead AND NOT p_claim = ANY (s.returned) FOR KEY SHARE;
  IF NOT FOUND THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'expired', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;

  SELECT * INTO v_cursor FROM bearmq.lease l WHERE l.lane = p_lane ORDER BY l.id DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lane % has no cursor: its newest lease was deleted', p_lane USING ERRCODE = 'BQ003';
  END IF;
  SELECT * INTO STRICT v_span FROM bearmq.log_interval i WHERE i.id = v_cursor.interval_id;
  v_lease := nextval('bearmq.lease_id');

  FOR i IN 0..1 LOOP
    -- One statement, so that the rows of the log are read once. A stretch of which nothing can run now is still a step: its
    -- lease is born finished.
    RETURN QUERY
    WITH chunk AS MATERIALIZED (
      SELECT * FROM bearmq.log_after_v1(p_lane, v_span.behind, v_span.ahead, v_cursor.hi_xid, v_cursor.hi_id, p_n) c
      ORDER BY c.xid, c.id LIMIT p_n),
    taken AS MATERIALIZED (
      SELECT t.* FROM (SELECT array_agg(c.id) AS ids, array_agg(c.xid) AS xids, array_agg(c.group_key) AS keys, array_agg(c.name) AS names
                       FROM chunk c WHERE c.group_key IS NOT NULL) g,
        bearmq.take_groups_v1(p_lane, v_lease, p_each, false, g.ids, g.xids, g.keys, g.names) t
      WHERE g.ids IS NOT NULL),
    sum AS MATERIALIZED (
      SELECT count(*) AS n, count(c.group_key) > 0 AS grouped,
        count(*) FILTER (WHERE c.group_key IS NULL) = 0 AND NOT EXISTS (SELECT 1 FROM taken) AS step FROM chunk c),
    made AS (
      INSERT INTO bearmq.lease (id, claim, lane, interval_id, lo_xid, lo_id, hi_xid, hi_id, session_id, finished)
      SELECT v_lease, p_claim, p_lane, v_span.id, v_cursor.hi_xid, v_cursor.hi_id, c.xid, c.id, p_session, (SELECT s.step FROM sum s)
      FROM chunk c ORDER BY c.xid DESC, c.id DESC LIMIT 1)
    SELECT v_lease, s.n, NULL::timestamptz, 0::smallint, 0::smallint, (SELECT EXISTS (SELECT 1 FROM bearmq.cancellation c WHERE c.job_id BETWEEN i.lo AND i.hi OFFSET 0)
          FROM (SELECT min(i.id) AS lo, max(i.id) AS hi FROM (SELECT c.id FROM chunk c UNION ALL SELECT t.id FROM taken t) i) i), NULL::boolean,
        CASE WHEN s.step THEN 'step' ELSE 'claimed' END, NULL::text, NULL::json, NULL::json
      FROM sum s WHERE s.n > 0 AND (NOT s.grouped OR set_config('synchronous_commit', v_sync, true) = v_sync)
    UNION ALL
    SELECT c.id, CASE WHEN c.group_key IS NOT NULL THEN (SELECT max(t.token) FROM taken t) END, c.created_at, 1::smallint, 0::smallint,
        false, false, c.name, c.group_key, c.payload, c.options
      FROM chunk c WHERE c.group_key IS NULL OR c.id IN (SELECT t.id FROM taken t WHERE NOT t.turned)
    UNION ALL
    SELECT b.* FROM (SELECT array_agg(t.id) AS ids, max(t.token) AS token FROM taken t WHERE t.turned) t, bearmq.turned_jobs_v1(t.ids, t.token) b
      WHERE t.ids IS NOT NULL;
    EXIT WHEN FOUND;
    IF i = 1 THEN
      RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'empty', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
    END IF;
    -- Nothing is left of the interval: on to the next. This transaction counts as open in it.
    v_span.behind := v_span.ahead;
    v_span.ahead := pg_current_snapshot();
    v_span.id := v_lease;
    v_own := pg_current_xact_id();
    IF pg_visible_in_snapshot(v_own, v_span.ahead) THEN
      v_span.ahead := (pg_snapshot_xmin(v_span.ahead)::text || ':' || pg_snapshot_xmax(v_span.ahead)::text || ':' ||
        (SELECT string_agg(x::text, ',' ORDER BY x) FROM (SELECT pg_snapshot_xip(v_span.ahead) AS x UNION SELECT v_own) o))::pg_snapshot;
    END IF;
    v_cursor.hi_xid := '0'; v_cursor.hi_id := 0;
  END LOOP;

  IF v_span.id = v_lease THEN
    INSERT INTO bearmq.log_interval (id, lane, behind, ahead) VALUES (v_lease, p_lane, v_span.behind, v_span.ahead);
  END IF;
  DELETE FROM bearmq.lease l WHERE l.id = v_cursor.id AND l.finished;
END $body$;
