-- is_dead_v1: is this session missing, or declared dead?
CREATE FUNCTION bearmq.is_dead_v1(p_session uuid) RETURNS boolean
LANGUAGE sql STABLE AS $body$
  SELECT NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead)
$body$;

-- handed_out_v1: the jobs that a lease holds, with whether each has its outcome: those of its stretch of the log that have no
-- ticket, and those whose ticket names it. What was handed out is read from the log by position: that is exact because a
-- claimed job never changes lane or xid, jobs that were handed back have tickets, and retention deletes a job only with its
-- outcome.
-- Index: job_log by range, ticket_lease, outcome's and ticket's keys.
CREATE FUNCTION bearmq.handed_out_v1(l bearmq.lease)
RETURNS TABLE (id bigint, xid xid8, group_key text, done boolean, finished_at timestamptz)
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_span bearmq.log_interval;
BEGIN
  SELECT * INTO v_span FROM bearmq.log_interval i WHERE i.id = l.interval_id;
  RETURN QUERY
  SELECT h.id, h.xid, h.group_key, o.job_id IS NOT NULL, o.finished_at FROM (
    SELECT j.id, j.xid, j.group_key FROM (
        -- (xid, id) <= (hi_xid, hi_id) in one condition would be read to the last row of hi_xid
        SELECT * FROM bearmq.job j WHERE j.lane = l.lane AND j.xid IS NOT NULL AND (j.xid, j.id) > (l.lo_xid, l.lo_id) AND j.xid < l.hi_xid
        UNION ALL
        SELECT * FROM bearmq.job j WHERE j.lane = l.lane AND j.xid IS NOT NULL AND j.xid = l.hi_xid
          AND j.id > CASE WHEN l.lo_xid = l.hi_xid THEN l.lo_id ELSE 0 END AND j.id <= l.hi_id) j
      WHERE j.name IS NOT NULL AND pg_visible_in_snapshot(j.xid, v_span.ahead) AND NOT pg_visible_in_snapshot(j.xid, v_span.behind)
        AND NOT EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = j.id OFFSET 0)
    UNION ALL
    SELECT t.job_id, t.xid, t.group_key FROM bearmq.ticket t WHERE t.lease_id = l.id AND t.state = 'c') h
    LEFT JOIN LATERAL (SELECT * FROM bearmq.outcome o WHERE o.job_id = h.id LIMIT 1) o ON true;
END $body$;

-- dead_leases_v1 declares the sessions dead that have expired, and lists leases that dead ones hold. It declares nobody dead
-- when it is later than p_latest: then the clock has jumped; nor does a session die that could not be renewed while the server
-- was down: after its start each gets one TTL. When the clock has jumped back, no session lives longer for it.
-- Index: lease_session; there are few sessions.
CREATE FUNCTION bearmq.dead_leases_v1(p_n integer, p_latest timestamptz) RETURNS SETOF bigint
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
DECLARE
  v_now timestamptz := clock_timestamp();
BEGIN
  PERFORM bearmq.guard_v1(false);
  IF p_latest IS NULL OR v_now <= p_latest THEN
    UPDATE bearmq.session s SET expires_at = v_now + s.ttl WHERE s.expires_at > v_now + s.ttl + interval '1 second' AND NOT s.dead;
    UPDATE bearmq.session s SET dead = true WHERE s.expires_at <= v_now AND NOT s.dead AND pg_postmaster_start_time() + s.ttl <= v_now;
  END IF;
  RETURN QUERY
  SELECT l.id FROM bearmq.session s, LATERAL (SELECT l.id, l.finished FROM bearmq.lease l WHERE l.session_id = s.id OFFSET 0) l
    WHERE s.dead AND NOT l.finished LIMIT p_n;
END $body$;

-- lose_jobs_v1 takes jobs away from a lease: p_lost may have run and have died with their process, p_back were handed out
-- and had not started. Those of p_heads are to hold their groups, and become due; the others of a group are blocked. It
-- returns the blocked ones, and those that failed. The caller holds the lease, and releases the groups.
-- The outcome of a job that failed so bears no claim: no replay may take it for its own.
-- A job at its last loss but one may be what kills its process: from now on it runs alone.
CREATE FUNCTION bearmq.lose_jobs_v1(p_lost bigint[], p_back bigint[], p_heads bigint[],
  p_max_losses integer, p_reason text,
  OUT b_keys text[], OUT b_xids xid8[], OUT b_ids bigint[], OUT failed bigint[])
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
BEGIN
  WITH w AS (
    INSERT INTO bearmq.ticket AS t (job_id, lane, xid, name, group_key, state, losses, alone)
      SELECT j.id, j.lane, coalesce(j.xid, '0'), j.name, j.group_key, CASE WHEN j.group_key IS NULL OR j.id = ANY (p_heads) THEN 'd' ELSE 'b' END::"char",
        u.lost, u.lost > 0 AND u.lost >= p_max_losses - 1
      FROM (SELECT l AS id, 1 AS lost FROM unnest(p_lost) l UNION ALL SELECT b, 0 FROM unnest(p_back) b) u,
        LATERAL (SELECT * FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
    ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, run_at = excluded.run_at, lease_id = NULL, losses = t.losses + excluded.losses,
      alone = t.alone OR excluded.losses > 0 AND t.losses + excluded.losses >= p_max_losses - 1
    RETURNING t.job_id, t.xid, t.group_key, t.losses, t.state),
  f AS (SELECT w.job_id FROM w WHERE w.losses >= p_max_losses AND w.job_id = ANY (coalesce(p_lost, '{}')))
  SELECT array_agg(w.group_key) FILTER (WHERE w.state = 'b'), array_agg(w.xid) FILTER (WHERE w.state = 'b'),
    array_agg(w.job_id) FILTER (WHERE w.state = 'b'), (SELECT array_agg(f.job_id) FROM f)
  INTO b_keys, b_xids, b_ids, failed
  FROM w WHERE NOT (w.losses >= p_max_losses AND w.job_id = ANY (coalesce(p_lost, '{}')));
  IF failed IS NULL THEN RETURN; END IF;
  INSERT INTO bearmq.outcome (job_id, state, attempt, claim, error)
    SELECT t.job_id, 'f', t.attempt, 0, format('lost %s times: %s', t.losses, p_reason) FROM unnest(failed) u(id), LATERAL (
      SELECT * FROM bearmq.ticket t WHERE t.job_id = u.id LIMIT 1) t;
  DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (failed);
  PERFORM bearmq.notify_ends_v1(failed);
END $body$;

-- recover_v1 gives back what a dead session's lease held. Jobs without an outcome get a ticket. Of a group only the first
-- can have started; of the others nobody knows. The first goes on holding its group, so that no job of another lane that
-- stands before it in the group's order comes between its start and its end; the others are blocked ones, in their order,
-- before all that came after them. As due ones that hold nothing they would be overtaken.
-- Locks: the lease (SKIP LOCKED), then groups in key order.
CREATE FUNCTION bearmq.recover_v1(p_lease bigint, p_max_losses integer)
RETURNS TABLE (job_id bigint, name text, lane integer, group_key text, attempt smallint, losses smallint, failed boolean)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  l       bearmq.lease;
  v_lost  bigint[];
  v_back  bigint[];
  v_gone  bigint[];
  v_keys  text[];    -- the groups, those of v_heads first
  v_heads bigint[];
  v_made  record;
  v_lanes integer[];
BEGIN
  PERFORM bearmq.guard_v1(false);
  SELECT * INTO l FROM bearmq.lease x WHERE x.id = p_lease AND NOT x.finished FOR UPDATE SKIP LOCKED;
  IF NOT FOUND OR NOT bearmq.is_dead_v1(l.session_id) THEN RETURN; END IF;

  -- In a statement of its own, so that it sees the outcomes for which the lock waited. Only the first unfinished job of a
  -- group can have started; the rest of its mailbox goes back as it was.
  SELECT array_agg(u.id) FILTER (WHERE NOT u.done AND (u.group_key IS NULL OR u.nth = 1)),
    array_agg(u.id) FILTER (WHERE NOT u.done AND u.group_key IS NOT NULL AND u.nth > 1),
    array_agg(u.id) FILTER (WHERE u.done),
    array_agg(u.group_key ORDER BY u.done, u.group_key) FILTER (WHERE u.group_key IS NOT NULL AND u.nth = 1 AND (NOT u.done OR u.over)),
    array_agg(u.id ORDER BY u.group_key) FILTER (WHERE u.group_key IS NOT NULL AND u.nth = 1 AND NOT u.done)
  INTO v_lost, v_back, v_gone, v_keys, v_heads
  FROM (SELECT h.*, row_number() OVER (PARTITION BY h.group_key, h.done ORDER BY h.xid, h.id) AS nth, bool_and(h.done) OVER (PARTITION BY h.group_key) AS over
    FROM bearmq.handed_out_v1(l) h) u;

  DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (v_gone) AND t.lease_id = l.id;  -- not one that a retry by hand has just made
  v_made := bearmq.lose_jobs_v1(v_lost, v_back, v_heads, p_max_losses, 'its process died each time it ran');
  IF v_keys IS NOT NULL THEN
    v_lanes := bearmq.release_groups_v1(v_keys, array_fill(l.id, ARRAY[cardinality(v_keys)]),
      (SELECT array_agg(CASE WHEN NOT u.id = ANY (coalesce(v_made.failed, '{}')) THEN u.id END ORDER BY u.n)
        FROM unnest(v_keys, v_heads) WITH ORDINALITY u(key, id, n)),
      v_made.b_keys, v_made.b_xids, v_made.b_ids);
  END IF;
  PERFORM bearmq.close_leases_v1(ARRAY[l.id]);
  PERFORM bearmq.notify_lanes_v1(v_lanes || (SELECT array_agg(DISTINCT j.lane) FROM unnest(v_lost) u(id), LATERAL (
    SELECT j.lane FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j), NULL);

  RETURN QUERY
  SELECT j.id, j.name, j.lane, j.group_key, coalesce(t.attempt, o.attempt), coalesce(t.losses, p_max_losses::smallint), o.job_id IS NOT NULL
    FROM unnest(v_lost) u(id), LATERAL (SELECT * FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
      LEFT JOIN LATERAL (SELECT * FROM bearmq.ticket t WHERE t.job_id = j.id LIMIT 1) t ON true
      LEFT JOIN LATERAL (SELECT * FROM bearmq.outcome o WHERE o.job_id = j.id LIMIT 1) o ON true;
END $body$;
