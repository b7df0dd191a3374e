-- What people do to single jobs, by SQL or by the library.

-- cancel is cancel_v1 for one job: it returns what the job is now, NULL where there is none.
CREATE FUNCTION bearmq.cancel(job bigint) RETURNS text
LANGUAGE sql AS $body$
  SELECT state FROM bearmq.cancel_v1(ARRAY[job])
$body$;

-- run_now makes a job due that waits for its time or for another attempt. It returns what the job is now, NULL where there is none.
-- Locks: its ticket.
CREATE FUNCTION bearmq.run_now(job bigint) RETURNS text
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
#variable_conflict use_column
DECLARE
  v_lane integer;
BEGIN
  UPDATE bearmq.ticket t SET run_at = clock_timestamp() WHERE t.job_id = run_now.job AND t.state = 'd' AND t.run_at > clock_timestamp() RETURNING t.lane INTO v_lane;
  IF FOUND THEN PERFORM bearmq.notify_lanes_v1(ARRAY[v_lane], NULL); END IF;
  RETURN (SELECT s.state FROM bearmq.job_state s WHERE s.id = run_now.job);
END $body$;

-- retry gives a job that failed for good, or was cancelled, another attempt, at once. It returns what the job is now, NULL where there is none.
-- Locks: its outcome, which retention deletes with it.
CREATE FUNCTION bearmq.retry(job bigint) RETURNS text
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
#variable_conflict use_column
DECLARE
  o      bearmq.outcome;
  v_lane integer;
BEGIN
  SELECT * INTO o FROM bearmq.outcome x WHERE x.job_id = retry.job AND x.state IN ('f', 'x') FOR UPDATE;
  IF FOUND THEN
    DELETE FROM bearmq.outcome x WHERE x.job_id = retry.job;
    DELETE FROM bearmq.cancellation c WHERE c.job_id = retry.job;
    INSERT INTO bearmq.ticket (job_id, lane, xid, name, group_key, state, attempt)
      SELECT j.id, j.lane, coalesce(j.xid, '0'), j.name, j.group_key, 'd', o.attempt + (o.state = 'f' AND o.attempt < 32767)::integer FROM bearmq.job j WHERE j.id = retry.job
      RETURNING lane INTO v_lane;
    PERFORM bearmq.notify_lanes_v1(ARRAY[v_lane], NULL);
  END IF;
  RETURN (SELECT s.state FROM bearmq.job_state s WHERE s.id = retry.job);
END $body$;
