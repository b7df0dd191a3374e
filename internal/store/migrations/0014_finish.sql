-- finish_v1 ends attempts at jobs of several leases in one transaction: a group commit. It is the fence: what belongs to a
-- lease that is gone, finished, or known by another claim, is not written.
--
-- p_leases, p_claims, p_closed: the leases, in the order of their ids, and whether nothing is left of each.
-- p_done...: jobs completed, each with its lease's place in p_leases; p_done_ticket: those of them that had a ticket.
-- p_rest: the others, an array of objects {id, l: the lease's place, op, attempt, seconds, error, delay: in seconds}; op is
--   fail: attempts are exhausted; lost: the same, for a job that has no attempt to its name; cancel: somebody asked for it
--   retry: another attempt after the delay; again: the same attempt after the delay
--   back: not started, back to its place; park: wait for a session that asks for the name
--   settled: CompleteTx has finished it, only its ticket is left
--   A job stands in a call once.
--   A job that has an outcome already keeps it, and is reported as settled when the outcome is of its claim.
-- p_keys...: groups to release, with the lease's place, and the job that is to hold the group or NULL.
-- p_replay: the call was made before and its answer was lost; it writes only what is not there yet.
--
-- It returns rows (what, id): lost, a lease; refused, a job whose group was unlocked; settled, a job; turn, a lane.
-- Index: the keys of all tables. Locks: leases in the order of ids, outcomes of a replay in the order of ids, then groups in key order.
CREATE FUNCTION bearmq.finish_v1(p_session uuid, p_replay boolean,
  p_leases bigint[], p_claims bigint[], p_closed boolean[],
  p_done bigint[], p_done_lease integer[], p_done_attempt smallint[], p_done_seconds real[], p_done_result json[], p_done_ticket bigint[],
  p_rest json, p_keys text[], p_key_lease integer[], p_key_job bigint[])
RETURNS TABLE (what text, id bigint)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_held     bigint[];     -- the leases that passed the fence, NULL in the place of one that did not
  v_lost     boolean;
  v_unlocked boolean;
  v_slow     boolean;      -- one of them is older than a second and goes on
  v_refused  bigint[];
  v_settled  bigint[];
  v_own      bigint[];
  v_lanes    integer[];
  v_written  bigint[];     -- tickets
  b_keys text[]; b_xids xid8[]; b_ids bigint[];
BEGIN
  PERFORM bearmq.guard_v1(false);
  SELECT array_agg(l.id ORDER BY u.n), count(l.id) < cardinality(p_leases), bool_or(l.unlocked),
      bool_or(NOT u.closed AND l.created_at < clock_timestamp() - interval '1 second')
    INTO v_held, v_lost, v_unlocked, v_slow
    FROM unnest(p_leases, p_claims, p_closed) WITH ORDINALITY u(id, claim, closed, n)
    LEFT JOIN LATERAL (SELECT l.id, l.created_at, l.unlocked IS NOT NULL AS unlocked FROM bearmq.lease l
      WHERE l.id = u.id AND l.claim = u.claim AND NOT l.finished FOR NO KEY UPDATE) l ON true;
  IF v_lost THEN
    RETURN QUERY SELECT 'lost', u.id FROM unnest(p_leases, v_held) u(id, held) WHERE u.held IS NULL;
    -- After a lost answer, a job whose outcome bears this claim was finished by this very call.
    IF p_replay THEN
      RETURN QUERY SELECT 'settled', o.job_id FROM unnest(p_done, p_done_lease) u(id, l), LATERAL (
        SELECT * FROM bearmq.outcome o WHERE o.job_id = u.id AND o.claim = p_claims[u.l] AND v_held[u.l] IS NULL LIMIT 1) o;
    END IF;
  END IF;
  IF v_unlocked THEN
    SELECT array_agg(u.id) INTO v_refused
      FROM (SELECT u.id, u.l FROM unnest(p_done, p_done_lease) u(id, l)
            UNION ALL SELECT r.id, r.l FROM json_to_recordset(p_rest) r(id bigint, l integer)) u,
        LATERAL (SELECT l.unlocked FROM bearmq.lease l WHERE l.id = v_held[u.l] LIMIT 1) l,
        LATERAL (SELECT j.group_key FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
      WHERE j.group_key = ANY (l.unlocked);
    RETURN QUERY SELECT 'refused', u FROM unnest(v_refused) u;
  END IF;

  IF cardinality(p_done) > 0 THEN
    IF NOT (v_lost OR p_replay OR v_refused IS NOT NULL) THEN
      INSERT INTO bearmq.outcome (job_id, state, attempt, claim, seconds, result)
        SELECT u.id, 'c', u.attempt, p_claims[u.l], u.seconds, u.result
        FROM unnest(p_done, p_done_lease, p_done_attempt, p_done_seconds, p_done_result) u(id, l, attempt, seconds, result);
      DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (p_done_ticket);
    ELSE
      -- What a lost call finished, somebody may be deleting: wait for him, or the insert waits for him and then writes it anew.
      PERFORM 1 FROM bearmq.outcome o WHERE o.job_id = ANY (p_done) ORDER BY o.job_id FOR KEY SHARE;
      INSERT INTO bearmq.outcome (job_id, state, attempt, claim, seconds, result)
        SELECT u.id, 'c', u.attempt, p_claims[u.l], u.seconds, u.result
        FROM unnest(p_done, p_done_lease, p_done_attempt, p_done_seconds, p_done_result) u(id, l, attempt, seconds, result)
        WHERE v_held[u.l] IS NOT NULL AND NOT u.id = ANY (coalesce(v_refused, '{}'))
          AND EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = u.id OFFSET 0)
          -- what a lost call wrote and somebody went on with is not this call's any more
          AND NOT EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = u.id AND t.lease_id IS DISTINCT FROM v_held[u.l] OFFSET 0)
        ON CONFLICT (job_id) DO NOTHING;
      DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (p_done) AND t.lease_id = ANY (v_held) AND NOT t.job_id = ANY (coalesce(v_refused, '{}'));
    END IF;
  END IF;

  IF p_rest IS NOT NULL THEN
    SELECT array_agg(o.job_id), array_agg(o.job_id) FILTER (WHERE o.claim = p_claims[r.l]) INTO v_settled, v_own
      FROM json_to_recordset(p_rest) r(id bigint, l integer),
        LATERAL (SELECT * FROM bearmq.outcome o WHERE o.job_id = r.id LIMIT 1) o;
    RETURN QUERY SELECT 'settled', u FROM unnest(v_own) u;
    v_refused := coalesce(v_refused, '{}') || coalesce(v_settled, '{}');

    INSERT INTO bearmq.attempt_error (job_id, attempt, seconds, error)
      SELECT r.id, r.attempt, r.seconds, r.error
      FROM json_to_recordset(p_rest) r(id bigint, l integer, op text, attempt smallint, seconds real, error text)
      WHERE r.op IN ('retry', 'fail') AND v_held[r.l] IS NOT NULL AND NOT r.id = ANY (v_refused)
        AND EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = r.id OFFSET 0)  -- a lost call may have finished it, and retention deleted it
      ON CONFLICT DO NOTHING;
    INSERT INTO bearmq.outcome (job_id, state, attempt, claim, seconds, error)
      SELECT r.id, CASE WHEN r.op = 'cancel' THEN 'x' ELSE 'f' END::"char", r.attempt, p_claims[r.l], r.seconds, nullif(r.error, '')
      FROM json_to_recordset(p_rest) r(id bigint, l integer, op text, attempt smallint, seconds real, error text)
      WHERE r.op IN ('fail', 'lost', 'cancel') AND v_held[r.l] IS NOT NULL AND NOT r.id = ANY (v_refused)
        AND EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = r.id OFFSET 0)
        AND NOT EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = r.id AND t.lease_id IS DISTINCT FROM v_held[r.l] OFFSET 0)
      ON CONFLICT (job_id) DO NOTHING;
    DELETE FROM bearmq.ticket t WHERE t.lease_id = ANY (v_held) AND t.job_id = ANY (ARRAY(
      SELECT r.id FROM json_to_recordset(p_rest) r(id bigint, op text) WHERE r.op IN ('fail', 'lost', 'cancel') OR r.id = ANY (v_settled)));
    DELETE FROM bearmq.cancellation c WHERE c.job_id = ANY (ARRAY(
      SELECT r.id FROM json_to_recordset(p_rest) r(id bigint, l integer, op text)
      WHERE r.op = 'cancel' AND v_held[r.l] IS NOT NULL AND NOT r.id = ANY (v_refused)));

    WITH w AS (
      INSERT INTO bearmq.ticket AS t (job_id, lane, xid, name, group_key, state, run_at, attempt)
        SELECT j.id, j.lane, coalesce(j.xid, '0'), j.name, j.group_key,
          CASE WHEN r.op = 'park' AND NOT r.asked THEN 'n' WHEN r.op = 'back' AND j.group_key IS NOT NULL THEN 'b' ELSE 'd' END::"char",
          clock_timestamp() + CASE WHEN r.asked THEN 0 ELSE coalesce(r.delay, 0) END * interval '1 second',
          CASE WHEN r.op = 'retry' THEN r.attempt + 1 ELSE r.attempt END
        FROM (SELECT r.*, EXISTS (SELECT 1 FROM bearmq.cancellation c WHERE c.job_id = r.id OFFSET 0) AS asked  -- then its wait is over
              FROM json_to_recordset(p_rest) r(id bigint, l integer, op text, attempt smallint, delay double precision)) r,
          LATERAL (SELECT * FROM bearmq.job j WHERE j.id = r.id LIMIT 1) j
        WHERE r.op IN ('retry', 'again', 'back', 'park') AND v_held[r.l] IS NOT NULL AND NOT r.id = ANY (v_refused)
          -- a job that starts with a ticket and has none is finished, or going on elsewhere
          AND (j.xid IS NOT NULL OR EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = j.id OFFSET 0))
      ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, run_at = excluded.run_at, attempt = excluded.attempt, lease_id = NULL
        WHERE t.lease_id = ANY (v_held)
      RETURNING t.job_id, t.xid, t.group_key, t.state, t.lane, t.run_at)
    SELECT array_agg(w.group_key) FILTER (WHERE w.state = 'b'), array_agg(w.xid) FILTER (WHERE w.state = 'b'),
      array_agg(w.job_id) FILTER (WHERE w.state = 'b'),
      array_agg(DISTINCT w.lane) FILTER (WHERE w.state <> 'b' AND w.run_at <= clock_timestamp() + interval '1 second'), array_agg(w.job_id)
    INTO b_keys, b_xids, b_ids, v_lanes, v_written FROM w;
    IF v_written IS NOT NULL THEN
      -- This call was lost, or comes late, behind its replay; somebody was deleting the ticket, for he has finished the job,
      -- and the insert waited for him.
      DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (v_written)
        AND (EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = t.job_id OFFSET 0) OR NOT EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = t.job_id OFFSET 0));
      IF FOUND THEN
        SELECT array_agg(t.group_key), array_agg(t.xid), array_agg(t.job_id) INTO b_keys, b_xids, b_ids
          FROM bearmq.ticket t WHERE t.job_id = ANY (b_ids);
      END IF;
    END IF;
    IF v_lanes IS NOT NULL THEN PERFORM bearmq.notify_lanes_v1(v_lanes, p_session); END IF;
  END IF;

  IF cardinality(p_keys) > 0 OR b_keys IS NOT NULL THEN
    -- A job that was finished before holds its group no more.
    v_lanes := (SELECT bearmq.release_groups_v1(array_agg(u.key), array_agg(v_held[u.l]),
        array_agg(CASE WHEN NOT u.job = ANY (coalesce(v_settled, '{}')) THEN u.job END), b_keys, b_xids, b_ids)
      FROM unnest(p_keys, p_key_lease, p_key_job) u(key, l, job));
    IF v_lanes IS NOT NULL THEN
      PERFORM bearmq.notify_lanes_v1(v_lanes, p_session);
      RETURN QUERY SELECT 'turn', u::bigint FROM unnest(v_lanes) u;
    END IF;
  END IF;

  -- From now on the next job of the mailbox holds its group: unlock_groups_v1 counts from here.
  IF v_slow THEN
    UPDATE bearmq.lease l SET progress = coalesce(l.progress, '{}') || u.progress
      FROM (SELECT u.l, jsonb_object_agg(j.group_key, clock_timestamp()) AS progress
            FROM (SELECT u.id, u.l FROM unnest(p_done, p_done_lease) u(id, l)
                  UNION ALL SELECT r.id, r.l FROM json_to_recordset(p_rest) r(id bigint, l integer)) u,
              LATERAL (SELECT j.group_key FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
            WHERE j.group_key IS NOT NULL AND NOT j.group_key = ANY (p_keys) AND NOT p_closed[u.l] GROUP BY u.l) u
      WHERE l.id = v_held[u.l] AND l.id = ANY (v_held);
  END IF;

  -- Somebody may wait for those that are over; of those that were refused he learns that they are not.
  PERFORM bearmq.notify_ends_v1(p_done || (SELECT array_agg(r.id) FROM json_to_recordset(p_rest) r(id bigint, op text) WHERE r.op IN ('fail', 'lost', 'cancel', 'settled')));
  PERFORM bearmq.close_leases_v1((SELECT array_agg(u.id) FROM unnest(v_held, p_closed) u(id, closed) WHERE u.closed AND u.id IS NOT NULL));
END $body$;
