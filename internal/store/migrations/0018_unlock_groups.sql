-- unlock_groups_v1 takes away the groups that one job has held for longer than p_after, although its session lives. The
-- job counts a loss; it and the rest of its mailbox go back to the front of the group. The lease remembers the group, so that
-- what the job finishes later is refused, and the session is told to end the job's context.
-- When a job of a mailbox started is when the one before it ended.
-- It does so for one lease: call it again while it returns something.
-- Index: lease's key: there are few leases. Locks: leases (SKIP LOCKED), then groups in key order.
CREATE FUNCTION bearmq.unlock_groups_v1(p_after interval, p_max_losses integer)
RETURNS TABLE (job_id bigint, name text, lane integer, group_key text, attempt smallint, losses smallint, failed boolean, held_for double precision)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  l       bearmq.lease;
  v_lost  bigint[];
  v_back  bigint[];
  v_keys  text[];
  v_since timestamptz[];
  v_made  record;
  v_lanes integer[];
BEGIN
  PERFORM bearmq.guard_v1(false);
  FOR l IN SELECT * FROM bearmq.lease x WHERE NOT x.finished AND x.created_at < clock_timestamp() - p_after ORDER BY x.id FOR UPDATE SKIP LOCKED LOOP
    WITH u AS (
      SELECT h.id, h.group_key, h.done, row_number() OVER (PARTITION BY h.group_key, h.done ORDER BY h.xid, h.id) AS nth,
        greatest(l.created_at, (l.progress->>h.group_key)::timestamptz, max(h.finished_at) OVER (PARTITION BY h.group_key)) AS since
      FROM bearmq.handed_out_v1(l) h WHERE h.group_key IS NOT NULL)
    SELECT array_agg(u.id ORDER BY u.group_key) FILTER (WHERE u.nth = 1), array_agg(u.id) FILTER (WHERE u.nth > 1),
      array_agg(u.group_key ORDER BY u.group_key) FILTER (WHERE u.nth = 1), array_agg(u.since ORDER BY u.group_key) FILTER (WHERE u.nth = 1)
    INTO v_lost, v_back, v_keys, v_since
    FROM u WHERE NOT u.done AND u.since < clock_timestamp() - p_after AND EXISTS (
      SELECT 1 FROM bearmq.group_state_v1(u.group_key) g WHERE g.lease_id = l.id);
    CONTINUE WHEN v_lost IS NULL;

    v_made := bearmq.lose_jobs_v1(v_lost, v_back, NULL, p_max_losses, 'it held its group for too long each time it ran');
    UPDATE bearmq.lease x SET unlocked = coalesce(x.unlocked, '{}') || v_keys WHERE x.id = l.id;
    UPDATE bearmq.session s SET revoked = s.revoked || v_lost || coalesce(v_back, '{}') WHERE s.id = l.session_id;
    v_lanes := bearmq.release_groups_v1(v_keys, array_fill(l.id, ARRAY[cardinality(v_keys)]), array_fill(NULL::bigint, ARRAY[cardinality(v_keys)]),
      v_made.b_keys, v_made.b_xids, v_made.b_ids);
    PERFORM bearmq.notify_lanes_v1(v_lanes, NULL);
    RETURN QUERY
    SELECT j.id, j.name, j.lane, j.group_key, coalesce(t.attempt, o.attempt), coalesce(t.losses, p_max_losses::smallint), o.job_id IS NOT NULL,
        extract(epoch FROM clock_timestamp() - u.since)::double precision
      FROM unnest(v_lost, v_since) u(id, since), LATERAL (SELECT * FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
        LEFT JOIN LATERAL (SELECT * FROM bearmq.ticket t WHERE t.job_id = j.id LIMIT 1) t ON true
        LEFT JOIN LATERAL (SELECT * FROM bearmq.outcome o WHERE o.job_id = j.id LIMIT 1) o ON true;
    EXIT;  -- one lease a call: groups are locked in key order
  END LOOP;
END $body$;
