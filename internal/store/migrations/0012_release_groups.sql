-- release_groups_v1 takes groups from the leases that hold them. A group goes to the job p_jobs names, which then holds it
-- while it waits; otherwise it is free, and where it has blocked jobs a turn is appended to the log of the first one's lane.
-- A group that its lease no longer holds is left alone. It returns the lanes that got a turn.
-- Index: group_anchor's and job_group's keys, ticket_blocked. Locks: anchors in key order, waiting.
CREATE FUNCTION bearmq.release_groups_v1(p_keys text[], p_leases bigint[], p_jobs bigint[], b_keys text[], b_xids xid8[], b_ids bigint[])
RETURNS integer[]
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $body$
#variable_conflict use_column
DECLARE
  v_keys text[]; v_rows tid[]; v_lanes integer[];
  t_rows tid[]; t_jobs bigint[];  -- the groups to write, by their newest row
  n_keys text[]; n_jobs bigint[]; -- those that have an anchor only, and go to a job
  m_keys text[];                  -- those that have an anchor only, and are free
BEGIN
  PERFORM 1 FROM (SELECT DISTINCT k FROM unnest(p_keys || b_keys) k ORDER BY k) o,
    LATERAL (SELECT 1 FROM bearmq.group_anchor a WHERE a.key = o.k FOR UPDATE) x;
  IF b_keys IS NOT NULL THEN PERFORM bearmq.block_groups_v1(b_keys, b_xids, b_ids); END IF;

  -- In a statement of its own, so that it sees what the lock waited for.
  SELECT array_agg(s.place) FILTER (WHERE s.place IS NOT NULL), array_agg(u.job) FILTER (WHERE s.place IS NOT NULL),
    array_agg(u.key) FILTER (WHERE s.place IS NULL AND u.job IS NOT NULL), array_agg(u.job) FILTER (WHERE s.place IS NULL AND u.job IS NOT NULL),
    array_agg(u.key) FILTER (WHERE s.place IS NULL AND u.job IS NULL)
  INTO t_rows, t_jobs, n_keys, n_jobs, m_keys
  FROM unnest(p_keys, p_leases, p_jobs) u(key, lease, job), LATERAL bearmq.group_state_v1(u.key) s WHERE s.lease_id = u.lease;

  IF m_keys IS NOT NULL THEN
    UPDATE bearmq.group_anchor a SET lease_id = NULL WHERE a.key = ANY (m_keys);
  END IF;
  IF n_keys IS NOT NULL THEN
    INSERT INTO bearmq.job_group (key, ver, holder_job) SELECT u.key, a.ver + 1, u.job FROM unnest(n_keys, n_jobs) u(key, job),
      LATERAL (SELECT a.ver FROM bearmq.group_anchor a WHERE a.key = u.key LIMIT 1) a;
  END IF;
  IF t_rows IS NULL THEN RETURN NULL; END IF;
  WITH r AS (
    UPDATE bearmq.job_group g SET ver = g.ver + 1, lease_id = NULL, holder_job = u.job
      FROM unnest(t_rows, t_jobs) u(place, job) WHERE g.ctid = u.place
      RETURNING g.key, g.ctid, g.holder_job, g.blocked, g.through_xid, g.through_id)
  SELECT array_agg(r.key), array_agg(r.ctid), array_agg(h.lane) INTO v_keys, v_rows, v_lanes
    FROM r LEFT JOIN LATERAL (SELECT t.lane FROM bearmq.ticket t WHERE t.group_key = r.key AND t.state = 'b'
      AND (t.xid, t.job_id) > (r.through_xid, r.through_id) ORDER BY t.xid, t.job_id LIMIT 1) h ON true
    WHERE r.blocked AND r.holder_job IS NULL;
  IF v_keys IS NULL THEN RETURN NULL; END IF;

  INSERT INTO bearmq.job (lane, group_key) SELECT u.lane, u.key FROM unnest(v_lanes, v_keys) u(lane, key) WHERE u.lane IS NOT NULL;
  IF array_position(v_lanes, NULL) IS NOT NULL THEN  -- marked as blocked, with nobody there: its tickets were cancelled
    UPDATE bearmq.job_group g SET ver = g.ver + 1, blocked = false
      WHERE g.ctid = ANY (ARRAY(SELECT u.place FROM unnest(v_rows, v_lanes) u(place, lane) WHERE u.lane IS NULL));
  END IF;
  RETURN (SELECT array_agg(DISTINCT l) FROM unnest(v_lanes) l WHERE l IS NOT NULL);
END $body$;
