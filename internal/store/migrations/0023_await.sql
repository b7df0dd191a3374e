-- notify_ends_v1 notifies the waiting processes of jobs that have ended, some hundred in a word: PostgreSQL allows 8000 bytes.
-- Where nobody waits, nothing is sent, and as in notify_lanes_v1 nothing where the queue of notifications fills: they look too.
CREATE FUNCTION bearmq.notify_ends_v1(p_jobs bigint[]) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM bearmq.awaiter a WHERE a.expires_at > clock_timestamp()) OR pg_notification_queue_usage() > 0.5 THEN RETURN; END IF;
  PERFORM pg_notify('bearmq_ends', string_agg(u.id::text, ',')) FROM unnest(p_jobs) WITH ORDINALITY u(id, n) GROUP BY u.n / 350;
END $body$;

-- ends_v1 says of jobs how they ended: the state of the outcome, NULL where there is none yet; known is false of a job that
-- there is not. A job that is to be cancelled, and that nobody has, is as good as cancelled.
-- Index: the keys of outcome and job.
CREATE FUNCTION bearmq.ends_v1(p_jobs bigint[]) RETURNS TABLE (id bigint, known boolean, state "char", result json, error text)
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
BEGIN
  RETURN QUERY
  SELECT u.id, o.job_id IS NOT NULL OR EXISTS (SELECT 1 FROM bearmq.job j WHERE j.id = u.id AND j.name IS NOT NULL OFFSET 0), coalesce(o.state, (SELECT 'x'::"char" FROM bearmq.cancellation c WHERE c.job_id = u.id AND EXISTS (
        SELECT 1 FROM bearmq.job_state s WHERE s.id = u.id AND s.state = 'cancelled' OFFSET 0))), o.result, o.error
    FROM unnest(p_jobs) u(id) LEFT JOIN LATERAL (SELECT * FROM bearmq.outcome o WHERE o.job_id = u.id LIMIT 1) o ON true;
END $body$;
