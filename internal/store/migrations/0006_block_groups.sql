-- block_groups_v1 marks the groups of jobs that have just got a blocked ticket, and lowers what was handed out through
-- below them. The caller holds the groups' anchors.
-- Index: job_group's key. A row that was read is written by its place (ctid), for which there is one plan only.
CREATE FUNCTION bearmq.block_groups_v1(p_keys text[], p_xids xid8[], p_ids bigint[]) RETURNS void
LANGUAGE sql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
  UPDATE bearmq.job_group g SET ver = g.ver + 1, blocked = true,
      through_xid = CASE WHEN (u.xid, u.id) <= (g.through_xid, g.through_id) THEN u.xid ELSE g.through_xid END,
      through_id = CASE WHEN (u.xid, u.id) <= (g.through_xid, g.through_id) THEN u.id - 1 ELSE g.through_id END
    FROM (SELECT DISTINCT ON (key) key, xid, id FROM unnest(p_keys, p_xids, p_ids) u(key, xid, id) ORDER BY key, xid, id) u,
      LATERAL (SELECT n.ctid FROM bearmq.job_group n WHERE n.key = u.key ORDER BY n.ver DESC LIMIT 1) n
    WHERE g.ctid = n.ctid AND (NOT g.blocked OR (u.xid, u.id) <= (g.through_xid, g.through_id))
$body$;
