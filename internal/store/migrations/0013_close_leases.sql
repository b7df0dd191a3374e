-- close_leases_v1 ends leases of which nothing is left. The newest lease of a lane is its cursor: it stays, finished.
-- Index: lease's key, lease_cursor.
CREATE FUNCTION bearmq.close_leases_v1(p_leases bigint[]) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $body$
BEGIN
  IF p_leases IS NULL THEN RETURN; END IF;
  WITH gone AS (
    DELETE FROM bearmq.lease l WHERE l.id = ANY (p_leases) AND (l.lane IS NULL OR (SELECT n.id FROM bearmq.lease n WHERE n.lane = l.lane ORDER BY n.id DESC LIMIT 1) > l.id)
      RETURNING l.id)
  UPDATE bearmq.lease l SET finished = true WHERE l.id = ANY (p_leases) AND NOT EXISTS (SELECT 1 FROM gone g WHERE g.id = l.id);
END $body$;
