-- tick_v1 makes the job of a schedule's tick and moves the schedule on, both or neither: only the one who sees p_tick as the next
-- one does. p_overlap says what becomes of it where the job before is not over: queue makes it all the same, skip makes none, and
-- replace cancels the one before. It returns the job, or NULL where it was skipped, with the one before that is not over; no row
-- where another orchestrator made it, or the schedule has changed.
-- Locks: the schedule, then as cancel_v1.
CREATE FUNCTION bearmq.tick_v1(p_name text, p_spec text, p_tick timestamptz, p_next timestamptz, p_overlap text,
  p_lane integer, p_payload json, p_group text, p_delay double precision)
RETURNS TABLE (id bigint, unfinished bigint)
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
#variable_conflict use_column
BEGIN
  SELECT s.last_job INTO unfinished FROM bearmq.schedule s
    WHERE s.name = p_name AND s.spec = p_spec AND s.next_at = p_tick AND NOT s.paused AND NOT s.removed FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  SELECT j.id INTO unfinished FROM bearmq.job_state j WHERE j.id = unfinished AND j.state NOT IN ('completed', 'failed', 'cancelled');
  IF unfinished IS NOT NULL AND p_overlap = 'skip' THEN
    UPDATE bearmq.schedule s SET next_at = p_next WHERE s.name = p_name;
    RETURN NEXT; RETURN;
  END IF;
  IF unfinished IS NOT NULL AND p_overlap = 'replace' THEN PERFORM bearmq.cancel_v1(ARRAY[unfinished]); END IF;
  INSERT INTO bearmq.job AS j (xid, lane, name, payload, group_key)
    VALUES (CASE WHEN p_delay IS NULL THEN pg_current_xact_id() END, p_lane, p_name, p_payload, p_group) RETURNING j.id INTO id;
  IF p_delay IS NOT NULL THEN
    INSERT INTO bearmq.ticket (job_id, lane, name, group_key, state, run_at)
      VALUES (id, p_lane, p_name, p_group, 'd', clock_timestamp() + p_delay * interval '1 second');
  END IF;
  UPDATE bearmq.schedule s SET next_at = p_next, last_at = p_tick, last_job = id WHERE s.name = p_name;
  PERFORM bearmq.notify_lanes_v1(ARRAY[p_lane], NULL);
  RETURN NEXT;
END $body$;
