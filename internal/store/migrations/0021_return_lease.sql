-- return_lease_v1 gives back a lease whose claim's answer never reached its session: nothing of it has started, so no job
-- counts a loss. A live session's lease is never recovered, so nobody else would. A claim that broke off may still be on its
-- way: where there is no lease, the session remembers that it does not want it.
-- Index: job_log by range, ticket_lease. Locks: the session where there is no lease, the lease, then groups in key order.
CREATE FUNCTION bearmq.return_lease_v1(p_session uuid, p_claim bigint) RETURNS boolean
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $body$
#variable_conflict use_column
DECLARE
  l       bearmq.lease;
  v_back  bigint[];
  v_keys  text[];
  v_heads bigint[];  -- the first job of each group holds it, as in recover_v1
  v_made  record;
BEGIN
  PERFORM bearmq.guard_v1(false);
  SELECT * INTO l FROM bearmq.lease x WHERE x.session_id = p_session AND x.claim = p_claim AND NOT x.finished FOR UPDATE;
  IF NOT FOUND THEN
    -- This waits for a claim that is under way, and keeps out one that is to come.
    PERFORM 1 FROM bearmq.session s WHERE s.id = p_session FOR UPDATE;
    UPDATE bearmq.session s SET returned = (s.returned || p_claim)[greatest(1, cardinality(s.returned) - 98):] WHERE s.id = p_session;
    SELECT * INTO l FROM bearmq.lease x WHERE x.session_id = p_session AND x.claim = p_claim AND NOT x.finished FOR UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
  END IF;
  SELECT array_agg(h.id ORDER BY h.xid, h.id), array_agg(h.group_key ORDER BY h.group_key) FILTER (WHERE h.nth = 1),
    array_agg(h.id ORDER BY h.group_key) FILTER (WHERE h.nth = 1)
  INTO v_back, v_keys, v_heads
  FROM (SELECT h.*, CASE WHEN h.group_key IS NOT NULL THEN row_number() OVER (PARTITION BY h.group_key ORDER BY h.xid, h.id) END AS nth
    FROM bearmq.handed_out_v1(l) h WHERE NOT h.done) h;
  v_made := bearmq.lose_jobs_v1(NULL, v_back, v_heads, 1, '');
  IF v_keys IS NOT NULL THEN
    PERFORM bearmq.release_groups_v1(v_keys, array_fill(l.id, ARRAY[cardinality(v_keys)]), v_heads,
      v_made.b_keys, v_made.b_xids, v_made.b_ids);
  END IF;
  PERFORM bearmq.close_leases_v1(ARRAY[l.id]);
  RETURN true;
END $body$;
