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
BEGIN
  PERFORM 1 FROM (SELECT DISTINCT k FROM unnest(p_keys || b_keys) k ORDER BY k) o,
    LATERAL (SELECT 1 FROM bearmq.group_anchor a WHERE a.key = o.k FOR UPDATE) x;
  IF b_keys IS NOT NULL THEN PERFORM bearmq.block_groups_v1(b_keys, b_xids, b_ids); END IF;

  WITH r AS (
    UPDATE bearmq.job_group g SET ver = g.ver + 1, lease_id = NULL, holder_job = u.job
      FROM unnest(p_keys, p_leases, p_jobs) u(key, lease, job),
        LATERAL (SELECT n.ctid FROM bearmq.job_group n WHERE n.key = u.key ORDER BY n.ver DESC LIMIT 1) n
      WHERE g.ctid = n.ctid AND g.lease_id = u.lease
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
