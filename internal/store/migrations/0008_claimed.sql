-- What every claim returns: first a header with the claim's status in name, its lease in id, and in token how many rows of
-- the log it read; then a row for each job, the jobs of a group in its order.
-- The status: claimed; step: rows were read and none can run now; empty; locked: another claim of the lane is under way;
-- paused; expired: the session is dead.
CREATE TYPE bearmq.claimed_v1 AS (
  id bigint, token bigint, created_at timestamptz, attempt smallint, losses smallint, ticket boolean, alone boolean,
  name text, group_key text, payload json, options json
);
