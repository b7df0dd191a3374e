-- cancel_v1 cancels jobs, in the caller's transaction. To take a job out of the log, its lane would have to stay locked for as long
-- as that is open; so claims take it as ever, and their worker ends it. One that waits for its time, or for a worker that knows its name, is over at
-- once, unless it holds its group. The others are asked for: whoever has them is notified, and the next claim sees it. What is over
-- already stays as it is. It returns what each job is now, and whether it was ended here; no row for a job that there is not.
-- Index: the keys of ticket, job and outcome. Locks: tickets in the order of ids (SKIP LOCKED). It waits for nobody.
CREATE FUNCTION bearmq.cancel_v1(p_jobs bigint[]) RETURNS TABLE (id bigint, state text, ended boolean)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
#variable_conflict use_column
DECLARE
  v_mine  bigint[];  -- those with a ticket that nobody else has
  v_ended bigint[];
  v_asked bigint[];
  v_lanes integer[];
BEGIN
  SELECT array_agg(t.job_id) INTO v_mine FROM (
    SELECT t.job_id FROM bearmq.ticket t WHERE t.job_id = ANY (p_jobs) AND t.state IN ('d', 'n') ORDER BY t.job_id FOR UPDATE SKIP LOCKED) t;
  -- In a statement of its own: under the lock, a job does not begin to hold its group, nor cease to.
  WITH gone AS (
    DELETE FROM bearmq.ticket t WHERE t.job_id = ANY (v_mine)
      AND NOT EXISTS (SELECT 1 FROM bearmq.group_state_v1(t.group_key) g WHERE g.holder_job = t.job_id)
    RETURNING t.job_id, t.attempt),
  made AS (
    INSERT INTO bearmq.outcome (job_id, claim, attempt, state) SELECT g.job_id, 0, g.attempt, 'x' FROM gone g RETURNING job_id)
  SELECT array_agg(m.job_id) INTO v_ended FROM made m;

  WITH asked AS (
    INSERT INTO bearmq.cancellation (job_id)
      SELECT j.id FROM unnest(p_jobs) u(id), LATERAL (SELECT * FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j
      WHERE j.name IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = j.id OFFSET 0)
        AND NOT EXISTS (SELECT 1 FROM bearmq.cancellation c WHERE c.job_id = j.id OFFSET 0)
      RETURNING job_id)
  SELECT array_agg(a.job_id) INTO v_asked FROM asked a;
  -- What is left of these holds its group while it waits: it need not wait any longer, whoever knows its name.
  WITH due AS (
    UPDATE bearmq.ticket t SET state = 'd', run_at = clock_timestamp()
      WHERE t.job_id = ANY (v_mine) AND (t.state = 'n' OR t.run_at > clock_timestamp()) RETURNING t.lane)
  SELECT array_agg(DISTINCT d.lane) INTO v_lanes FROM due d;
  IF v_lanes IS NOT NULL THEN PERFORM bearmq.notify_lanes_v1(v_lanes, NULL); END IF;
  -- Always: a claim that is under way has not seen it.
  IF v_asked IS NOT NULL AND pg_notification_queue_usage() <= 0.5 THEN PERFORM pg_notify('bearmq_wake', 'cancel'); END IF;
  PERFORM bearmq.notify_ends_v1(v_ended || v_asked);

  RETURN QUERY
  SELECT s.id, s.state, s.id = ANY (coalesce(v_ended, '{}')) FROM unnest(p_jobs) u(id), LATERAL (
    SELECT s.id, s.state FROM bearmq.job_state s WHERE s.id = u.id LIMIT 1) s;
END $body$;
