-- group_state_v1 is the state of a group: its newest row, or what its anchor says of one that was taken once at most; no row
-- where there is no such group. It is plain SQL that the planner inlines.
-- Index: job_group's key newest first, group_anchor's key.
CREATE FUNCTION bearmq.group_state_v1(p_key text)
RETURNS TABLE (place tid, ver bigint, lease_id bigint, holder_job bigint, through_xid xid8, through_id bigint, blocked boolean)
LANGUAGE sql STABLE ROWS 1 AS $body$
  SELECT * FROM (
    (SELECT g.ctid, g.ver, g.lease_id, g.holder_job, g.through_xid, g.through_id, g.blocked
     FROM bearmq.job_group g WHERE g.key = p_key ORDER BY g.ver DESC LIMIT 1)
    UNION ALL
    (SELECT NULL, a.ver, a.lease_id, NULL, '0', 0, false FROM bearmq.group_anchor a WHERE a.key = p_key)) s
  LIMIT 1
$body$;

-- block_groups_v1 marks the groups of jobs that have just got a blocked ticket, and lowers what was handed out through
-- below them. The caller holds the groups' anchors.
-- Index: job_group's and group_anchor's keys. A row that was read is written by its place (ctid), for which there is one plan
-- only.
CREATE FUNCTION bearmq.block_groups_v1(p_keys text[], p_xids xid8[], p_ids bigint[]) RETURNS void
LANGUAGE sql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
  INSERT INTO bearmq.job_group (key, ver, lease_id, blocked)
    SELECT u.key, s.ver + 1, s.lease_id, true FROM (SELECT DISTINCT key FROM unnest(p_keys) u(key)) u, LATERAL bearmq.group_state_v1(u.key) s
    WHERE s.place IS NULL;
  UPDATE bearmq.job_group g SET ver = g.ver + 1, blocked = true,
      through_xid = CASE WHEN (u.xid, u.id) <= (g.through_xid, g.through_id) THEN u.xid ELSE g.through_xid END,
      through_id = CASE WHEN (u.xid, u.id) <= (g.through_xid, g.through_id) THEN u.id - 1 ELSE g.through_id END
    FROM (SELECT DISTINCT ON (key) key, xid, id FROM unnest(p_keys, p_xids, p_ids) u(key, xid, id) ORDER BY key, xid, id) u,
      LATERAL (SELECT n.ctid FROM bearmq.job_group n WHERE n.key = u.key ORDER BY n.ver DESC LIMIT 1) n
    WHERE g.ctid = n.ctid AND (NOT g.blocked OR (u.xid, u.id) <= (g.through_xid, g.through_id))
$body$;
