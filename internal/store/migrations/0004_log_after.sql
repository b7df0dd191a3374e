-- log_after_v1: the next p_n rows of a lane's log behind (p_xid, p_id), among those that are visible in the snapshot
-- ahead and are not visible in the snapshot behind, in the order (xid, id). It is plain SQL that the planner inlines.
-- Index: job_log, by ranges only. First each transaction that was open in behind and has ended in ahead; then the gaps
-- between the transactions that are open in ahead, so that their rows, which may be many, are never read.
CREATE FUNCTION bearmq.log_after_v1(p_lane integer, p_behind pg_snapshot, p_ahead pg_snapshot, p_xid xid8, p_id bigint, p_n integer)
RETURNS SETOF bearmq.job LANGUAGE sql STABLE ROWS 100 AS $body$
  (SELECT j.* FROM
     (SELECT x FROM pg_snapshot_xip(p_behind) x WHERE x >= p_xid AND pg_visible_in_snapshot(x, p_ahead) ORDER BY x) o,
     LATERAL (SELECT * FROM bearmq.job j WHERE j.lane = p_lane AND j.xid IS NOT NULL AND j.xid = o.x
                -- not (xid, id) > (p_xid, p_id): with xid = x, that would be read from x's first row on each time
                AND j.id > CASE WHEN o.x = p_xid THEN p_id ELSE 0 END ORDER BY j.id LIMIT p_n) j
   LIMIT p_n)
  UNION ALL
  (SELECT j.* FROM
     (SELECT coalesce(lag(hi) OVER w, pg_snapshot_xmax(p_behind)) AS lo,
             CASE WHEN lag(hi) OVER w IS NULL THEN 0 ELSE 9223372036854775807 END AS lo_id, hi
      FROM (SELECT x AS hi FROM pg_snapshot_xip(p_ahead) x WHERE x >= pg_snapshot_xmax(p_behind)
            UNION ALL SELECT pg_snapshot_xmax(p_ahead)) b
      WINDOW w AS (ORDER BY hi) ORDER BY hi) r,
     LATERAL (SELECT * FROM bearmq.job j WHERE j.lane = p_lane AND j.xid IS NOT NULL AND j.xid < r.hi
                AND (j.xid, j.id) > (greatest(p_xid, r.lo), CASE WHEN p_xid > r.lo OR p_xid = r.lo AND r.lo_id = 0 THEN p_id ELSE r.lo_id END)
              ORDER BY j.xid, j.id LIMIT p_n) j
   WHERE r.hi > p_xid
   LIMIT p_n)
$body$;
