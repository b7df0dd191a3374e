-- claim_due_v1 hands due tickets of a lane to a session, under a new lease: those whose time has come, those that wait for
-- one of p_names, of each as many as p_rooms says, and, with p_alone, at most one that runs alone. p_from is the time of the last one handed out, so that
-- dead index entries before it are not read again; NULL looks at all; the header's
-- created_at is the time to go on from.
-- Index: ticket_due, ticket_named. Locks: tickets (SKIP LOCKED), the session (FOR KEY SHARE), then groups in key order.
CREATE FUNCTION bearmq.claim_due_v1(p_lane integer, p_session uuid, p_claim bigint, p_n integer, p_each integer,
  p_names text[], p_rooms integer[], p_alone boolean, p_from timestamptz)
RETURNS SETOF bearmq.claimed_v1
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_now   timestamptz := clock_timestamp();  -- a variable: the index takes no volatile function
  v_lease bigint;
  v_ids   bigint[];
  v_token bigint;
  v_until timestamptz;
  v_sync  text := current_setting('synchronous_commit');
  g_ids bigint[]; g_xids xid8[]; g_keys text[]; g_names text[]; r_ids bigint[];
BEGIN
  PERFORM bearmq.guard_v1(true);
  PERFORM set_config('synchronous_commit', 'off', true);  -- as in claim_log_v1
  IF (SELECT l.paused FROM bearmq.lane l WHERE l.id = p_lane) THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'paused', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead) THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'expired', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;

  SELECT array_agg(d.job_id) FILTER (WHERE d.group_key IS NULL),
    array_agg(d.job_id ORDER BY d.xid, d.job_id) FILTER (WHERE d.group_key IS NOT NULL),
    array_agg(d.xid ORDER BY d.xid, d.job_id) FILTER (WHERE d.group_key IS NOT NULL),
    array_agg(d.group_key ORDER BY d.xid, d.job_id) FILTER (WHERE d.group_key IS NOT NULL),
    array_agg(d.name ORDER BY d.xid, d.job_id) FILTER (WHERE d.group_key IS NOT NULL),
    max(d.run_at) FILTER (WHERE d.state = 'd' AND NOT d.alone)
  INTO v_ids, g_ids, g_xids, g_keys, g_names, v_until
  FROM (
    (SELECT * FROM (
       (SELECT * FROM (SELECT t.* FROM bearmq.ticket t WHERE p_alone AND t.state = 'd' AND t.lane = p_lane AND t.alone AND t.run_at <= v_now
          ORDER BY t.run_at LIMIT 1 FOR UPDATE SKIP LOCKED) t)
       UNION ALL
       (SELECT t.* FROM unnest(p_names) u(name), LATERAL (
          SELECT * FROM bearmq.ticket t WHERE p_alone AND t.state = 'n' AND t.lane = p_lane AND t.name = u.name AND t.alone AND t.run_at <= v_now
          ORDER BY t.run_at LIMIT 1 FOR UPDATE SKIP LOCKED) t LIMIT 1)) t LIMIT 1)
    UNION ALL
    (SELECT t.* FROM unnest(p_names, p_rooms) u(name, room), LATERAL (  -- no more than half: these and the due ones must not starve each other
       SELECT * FROM bearmq.ticket t WHERE t.state = 'n' AND t.lane = p_lane AND t.name = u.name AND NOT t.alone AND t.run_at <= v_now
       ORDER BY t.run_at LIMIT least(p_n, u.room) FOR UPDATE SKIP LOCKED) t LIMIT (p_n + (random() < 0.5)::integer) / 2)
    UNION ALL
    (SELECT * FROM (SELECT t.* FROM bearmq.ticket t WHERE t.state = 'd' AND t.lane = p_lane AND NOT t.alone AND t.run_at <= v_now
       AND t.run_at >= coalesce(p_from, '-infinity') ORDER BY t.run_at LIMIT p_n FOR UPDATE SKIP LOCKED) t)
    LIMIT p_n
  ) d;

  IF v_ids IS NULL AND g_ids IS NULL THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'empty', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;
  PERFORM 1 FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead AND NOT p_claim = ANY (s.returned) FOR KEY SHARE;  -- as in claim_log_v1
  IF NOT FOUND THEN
    RETURN NEXT ROW(NULL, 0, NULL, 0, 0, NULL, NULL, 'expired', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;
  v_lease := nextval('bearmq.lease_id');
  IF g_ids IS NOT NULL THEN
    SELECT array_agg(t.id), max(t.token) INTO r_ids, v_token
      FROM bearmq.take_groups_v1(p_lane, v_lease, p_each, true, g_ids, g_xids, g_keys, g_names) t;
    PERFORM set_config('synchronous_commit', v_sync, true);
  END IF;
  IF v_ids IS NULL AND r_ids IS NULL THEN
    RETURN NEXT ROW(NULL, cardinality(g_ids), v_until, 0, 0, NULL, NULL, 'step', NULL, NULL, NULL)::bearmq.claimed_v1; RETURN;
  END IF;

  INSERT INTO bearmq.lease (id, claim, session_id) VALUES (v_lease, p_claim, p_session);
  RETURN NEXT ROW(v_lease, coalesce(cardinality(v_ids), 0) + coalesce(cardinality(g_ids), 0), v_until, 0, 0,
    (SELECT EXISTS (SELECT 1 FROM bearmq.cancellation c WHERE c.job_id BETWEEN i.lo AND i.hi OFFSET 0) FROM (SELECT min(u) AS lo, max(u) AS hi FROM unnest(v_ids || r_ids) u) i), NULL,
    'claimed', NULL, NULL, NULL)::bearmq.claimed_v1;
  RETURN QUERY
  WITH t AS (
    UPDATE bearmq.ticket t SET state = 'c', lease_id = v_lease WHERE t.job_id = ANY (v_ids || r_ids)
    RETURNING t.job_id, t.xid, t.attempt, t.losses, t.alone)
  SELECT t.job_id, CASE WHEN j.group_key IS NOT NULL THEN v_token END, j.created_at, t.attempt, t.losses, true, t.alone, j.name, j.group_key, j.payload, j.options
    FROM t, LATERAL (SELECT * FROM bearmq.job j WHERE j.id = t.job_id LIMIT 1) j ORDER BY t.xid, t.job_id;
END $body$;
