-- take_groups_v1 decides which of the grouped rows that a claim has read may run, and books it: it takes their groups for
-- the lease, and blocks the others behind theirs. Rows come in the order (xid, id). They are rows of the log, among which
-- those without a name are turns, or, with p_tickets, due tickets. It returns the jobs that may run; those that a turn
-- brought come from blocked tickets, which it has claimed.
-- A group is taken by a row of the log, or by a due ticket, when it is free and has nobody blocked before; by the ticket
-- that holds it; and by a turn, which takes up to p_each blocked jobs of the lane in order: a mailbox.
-- A group that is new is taken by the row of its anchor, which costs half.
-- A job that runs alone never rides in a mailbox: at a turn it becomes a due ticket that holds its group.
-- Index: group_anchor's and job_group's keys, ticket_blocked, ticket's key. Locks: anchors in key order, waiting.
CREATE FUNCTION bearmq.take_groups_v1(p_lane integer, p_lease bigint, p_each integer, p_tickets boolean,
  p_ids bigint[], p_xids xid8[], p_keys text[], p_names text[])
RETURNS TABLE (id bigint, turned boolean, token bigint)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $body$
#variable_conflict use_column
DECLARE
  v_now   bigint := (extract(epoch FROM clock_timestamp()) * 1e6)::bigint;
  v_token bigint;
  v_turns text[];
  v_run   bigint[];
  -- the jobs to block
  b_ids bigint[]; b_xids xid8[]; b_keys text[]; b_names text[];
  -- the groups to write: m made here, n that have an anchor only, t the others; e made here for nothing
  m_keys text[];
  e_keys text[];
  n_keys text[];
  t_rows tid[];
  v_lanes integer[];
BEGIN
  INSERT INTO bearmq.group_anchor AS a (key, ver, lease_id) SELECT DISTINCT k, v_now, p_lease FROM unnest(p_keys) k ORDER BY k
    ON CONFLICT (key) DO UPDATE SET key = excluded.key WHERE false;

  -- In a statement of its own, so that it sees what the lock waited for. Of the rows of one group, first marks the one
  -- that stands for the group in what is written.
  SELECT greatest(v_now, coalesce(max(ver) FILTER (WHERE NOT made), 0) + 1),
    array_agg(r.key) FILTER (WHERE first AND turn AND free AND blocked),
    array_agg(r.id ORDER BY ord) FILTER (WHERE run),
    array_agg(r.id ORDER BY ord) FILTER (WHERE NOT run AND name IS NOT NULL),
    array_agg(r.xid ORDER BY ord) FILTER (WHERE NOT run AND name IS NOT NULL),
    array_agg(r.key ORDER BY ord) FILTER (WHERE NOT run AND name IS NOT NULL),
    array_agg(r.name ORDER BY ord) FILTER (WHERE NOT run AND name IS NOT NULL),
    array_agg(r.key) FILTER (WHERE first AND made AND runs > 0),
    array_agg(r.key) FILTER (WHERE first AND made AND runs = 0),
    array_agg(r.key) FILTER (WHERE first AND place IS NULL AND NOT made AND runs > 0),
    array_agg(r.place) FILTER (WHERE first AND place IS NOT NULL AND runs > 0)
  INTO v_token, v_turns, v_run, b_ids, b_xids, b_keys, b_names, m_keys, e_keys, n_keys, t_rows
  FROM (
    SELECT r.*, count(*) FILTER (WHERE run) OVER (PARTITION BY r.key) AS runs
    FROM (
      SELECT u.ord, u.id, u.xid, u.key, u.name, g.ver, g.place, g.made, g.free, g.blocked,
        row_number() OVER p = 1 AS first, bool_or(u.name IS NULL) OVER a AS turn,
        u.name IS NOT NULL AND CASE WHEN g.holder_job IS NOT NULL THEN g.holder_job = u.id
          WHEN g.free AND NOT g.blocked THEN count(u.name) OVER p <= p_each ELSE false END AS run
      FROM unnest(p_ids, p_xids, p_keys, p_names) WITH ORDINALITY u(id, xid, key, name, ord),
        LATERAL (SELECT g.*, coalesce(g.lease_id = p_lease, false) AS made, coalesce(g.lease_id = p_lease, g.holder_job IS NULL) AS free
                 FROM bearmq.group_state_v1(u.key) g) g
      WINDOW a AS (PARTITION BY u.key), p AS (PARTITION BY u.key ORDER BY u.ord)) r) r;

  IF v_token > v_now AND m_keys IS NOT NULL THEN  -- tokens rise, although the clock has gone back
    UPDATE bearmq.group_anchor a SET ver = v_token WHERE a.key = ANY (m_keys);
  END IF;
  IF e_keys IS NOT NULL THEN
    UPDATE bearmq.group_anchor a SET lease_id = NULL WHERE a.key = ANY (e_keys);
  END IF;
  IF n_keys IS NOT NULL THEN
    INSERT INTO bearmq.job_group (key, ver, lease_id) SELECT u, v_token, p_lease FROM unnest(n_keys) u;
  END IF;
  IF t_rows IS NOT NULL THEN
    UPDATE bearmq.job_group g SET ver = v_token, lease_id = p_lease, holder_job = NULL WHERE g.ctid = ANY (t_rows);
  END IF;
  IF b_ids IS NOT NULL THEN
    IF p_tickets THEN
      UPDATE bearmq.ticket t SET state = 'b' WHERE t.job_id = ANY (b_ids);
    ELSE
      INSERT INTO bearmq.ticket (job_id, lane, xid, name, group_key, state)
        SELECT u.id, p_lane, u.xid, u.name, u.key, 'b' FROM unnest(b_ids, b_xids, b_names, b_keys) u(id, xid, name, key);
    END IF;
    PERFORM bearmq.block_groups_v1(b_keys, b_xids, b_ids);
  END IF;

  RETURN QUERY SELECT u, false, v_token FROM unnest(v_run) u;

  IF v_turns IS NOT NULL THEN
    RETURN QUERY
    WITH h AS MATERIALIZED (
      SELECT g.key, g.place, t.job_id, t.xid, t.lane, t.alone, row_number() OVER w AS nth,
        row_number() OVER w <= p_each AND NOT bool_or(t.alone OR t.lane <> p_lane) OVER w AS run
      FROM unnest(v_turns) k(key),
        LATERAL (SELECT g.*, g.ctid AS place FROM bearmq.job_group g WHERE g.key = k.key ORDER BY g.ver DESC LIMIT 1) g,
        LATERAL (SELECT * FROM bearmq.ticket t WHERE t.group_key = k.key AND t.state = 'b'
                   AND (t.xid, t.job_id) > (g.through_xid, g.through_id) ORDER BY t.xid, t.job_id LIMIT p_each + 1) t
      WINDOW w AS (PARTITION BY g.key ORDER BY t.xid, t.job_id)),
    k AS MATERIALIZED (
      SELECT h.key, h.place, count(*) FILTER (WHERE run) AS runs, count(*) AS seen,
        (array_agg(h.job_id ORDER BY nth))[1] AS head, (array_agg(h.xid ORDER BY nth))[1] AS head_xid,
        (array_agg(h.lane ORDER BY nth))[1] AS head_lane, (array_agg(h.alone ORDER BY nth))[1] AS head_alone,
        (array_agg(h.job_id ORDER BY nth DESC) FILTER (WHERE run))[1] AS last_id,
        (array_agg(h.xid ORDER BY nth DESC) FILTER (WHERE run))[1] AS last_xid
      FROM h GROUP BY h.key, h.place),
    taken AS (
      UPDATE bearmq.job_group g SET ver = v_token, lease_id = p_lease, blocked = k.runs < k.seen,
          through_xid = k.last_xid, through_id = k.last_id
        FROM k WHERE g.ctid = k.place AND k.runs > 0),
    held AS (
      UPDATE bearmq.job_group g SET ver = g.ver + 1, holder_job = k.head, blocked = k.seen > 1,
          through_xid = k.head_xid, through_id = k.head
        FROM k WHERE g.ctid = k.place AND k.head_alone AND k.head_lane = p_lane),
    due AS (
      UPDATE bearmq.ticket t SET state = 'd', run_at = clock_timestamp()
        WHERE t.job_id = ANY (ARRAY(SELECT k.head FROM k WHERE k.head_alone AND k.head_lane = p_lane))),
    elsewhere AS (  -- what stands first now is of another channel: its turn goes there
      INSERT INTO bearmq.job (lane, group_key) SELECT k.head_lane, k.key FROM k WHERE k.head_lane <> p_lane),
    claimed AS (
      UPDATE bearmq.ticket t SET state = 'c', lease_id = p_lease WHERE t.job_id = ANY (ARRAY(SELECT h.job_id FROM h WHERE h.run)))
    SELECT h.job_id, true, v_token FROM h WHERE h.run ORDER BY h.key, h.nth;

    SELECT array_agg(l.lane) INTO v_lanes FROM (
      SELECT g.key, g.ver, (SELECT t.lane FROM bearmq.ticket t WHERE t.group_key = k.key AND t.state = 'b'
        AND (t.xid, t.job_id) > (g.through_xid, g.through_id) ORDER BY t.xid, t.job_id LIMIT 1) AS lane
      FROM unnest(v_turns) k(key),
        LATERAL (SELECT * FROM bearmq.job_group g WHERE g.key = k.key ORDER BY g.ver DESC LIMIT 1) g
      WHERE g.lease_id IS NULL AND g.holder_job IS NULL AND g.blocked) l WHERE l.lane <> p_lane;
    IF v_lanes IS NOT NULL THEN PERFORM bearmq.notify_lanes_v1(v_lanes, NULL); END IF;

    -- a group whose blocked jobs were all cancelled is not an error
    UPDATE bearmq.job_group g SET ver = g.ver + 1, blocked = false FROM (
      SELECT g.place FROM unnest(v_turns) k(key),
        LATERAL (SELECT g.*, g.ctid AS place FROM bearmq.job_group g WHERE g.key = k.key ORDER BY g.ver DESC LIMIT 1) g
      WHERE g.lease_id IS NULL AND g.holder_job IS NULL AND g.blocked AND NOT EXISTS (
        SELECT 1 FROM bearmq.ticket t WHERE t.group_key = k.key AND t.state = 'b'
          AND (t.xid, t.job_id) > (g.through_xid, g.through_id) OFFSET 0)) u
      WHERE g.ctid = u.place;
  END IF;

  IF NOT p_tickets THEN
    DELETE FROM bearmq.job j WHERE j.id = ANY (ARRAY(SELECT u.id FROM unnest(p_ids, p_names) u(id, name) WHERE u.name IS NULL));
  END IF;
END $body$;
