-- What every claim returns: first a header with the claim's status in name, its lease in id, in token how many rows of the log
-- it read, and in ticket whether some of the jobs may have to be cancelled; then a row for each job, the jobs of a group in its order.
-- The status: claimed; step: rows were read and none can run now; empty; locked: another claim of the lane is under way;
-- paused; expired: the session is dead.
CREATE TYPE bearmq.claimed_v1 AS (
  id bigint, token bigint, created_at timestamptz, attempt smallint, losses smallint, ticket boolean, alone boolean,
  name text, group_key text, payload json, options json
);

-- turned_jobs_v1 reads the jobs that turns took, in the order of p_ids. It is volatile, and so sees what take_groups_v1 saw
-- under the anchors: a job that was blocked while the claim waited for them is not visible to the claim's own statement, and
-- would be claimed and never handed out.
-- Index: the keys of job and ticket.
CREATE FUNCTION bearmq.turned_jobs_v1(p_ids bigint[], p_token bigint) RETURNS SETOF bearmq.claimed_v1
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
BEGIN
  RETURN QUERY
  SELECT j.id, p_token, j.created_at, k.attempt, k.losses, true, k.alone, j.name, j.group_key, j.payload, j.options
    FROM unnest(p_ids) WITH ORDINALITY u(id, n), LATERAL (SELECT * FROM bearmq.job j WHERE j.id = u.id LIMIT 1) j,
      LATERAL (SELECT * FROM bearmq.ticket k WHERE k.job_id = u.id LIMIT 1) k ORDER BY u.n;
END $body$;
