-- is_restored_v1: are the transaction ids in the log those of another cluster, or of a later time of this one? By the cluster's
-- identifier, or by an id that this cluster has not given out yet.
-- Index: job_log by range, beyond all that is visible: no rows.
CREATE FUNCTION bearmq.is_restored_v1() RETURNS boolean
LANGUAGE sql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
  SELECT (SELECT m.value FROM bearmq.meta m WHERE m.key = 'system_identifier') <> (SELECT c.system_identifier::text FROM pg_control_system() c)
    OR EXISTS (SELECT 1 FROM bearmq.log_interval i WHERE pg_snapshot_xmax(i.ahead) > pg_snapshot_xmax(pg_current_snapshot()))
    OR EXISTS (SELECT 1 FROM bearmq.lane l, LATERAL (SELECT 1 FROM bearmq.job j
      WHERE j.lane = l.id AND j.xid IS NOT NULL AND j.xid >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT 1) j)
$body$;

-- restamp_v1 repairs a restored database, in one transaction with everything else kept out. What sessions of the old cluster
-- held is recovered as that of dead ones, by the old positions, which still fit each other. Then what is finished or has a
-- ticket leaves the log, and the rest, tickets included, gets one transaction id: the last one before all that are open now, so
-- that it stands before whatever is enqueued from now on. Inside it the order is that of the ids. That keeps the promised order:
-- a job whose enqueue was acknowledged before another's transaction wrote anything has the lower id too. The lanes get new
-- cursors, which begin at this transaction id. Finished jobs below it stay as they are: nobody reads them.
-- It returns nothing where there is nothing to repair. Otherwise how many jobs are in the log, how many have a ticket, how many
-- were running and count a loss, and how many of these have failed by it.
-- It reads all tables, and uses whatever plan is good for that. Locks: all tables, the job before its ticket, as producers do.
CREATE FUNCTION bearmq.restamp_v1(p_max_losses integer)
RETURNS TABLE (queued bigint, waiting bigint, lost bigint, failed bigint)
LANGUAGE plpgsql SET lock_timeout = '10s' AS $body$
DECLARE
  s        bearmq.session;
  l        record;
  v_xid    xid8;
  v_lost   bigint := 0;
  v_failed bigint := 0;
BEGIN
  PERFORM bearmq.guard_v1(false);
  LOCK TABLE bearmq.lane, bearmq.session, bearmq.sleeper, bearmq.lease, bearmq.log_interval, bearmq.group_anchor, bearmq.job_group, bearmq.job,
    bearmq.ticket, bearmq.outcome, bearmq.attempt_error, bearmq.meta IN EXCLUSIVE MODE;
  IF NOT bearmq.is_restored_v1() THEN RETURN; END IF;
  SELECT * INTO s FROM bearmq.session x WHERE x.expires_at > clock_timestamp() ORDER BY x.expires_at DESC LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'a worker (process % on host %) may still be running: stop the workers of this database, wait until % and try again',
      s.pid, quote_literal(s.host), date_trunc('second', s.expires_at) + interval '1 second' USING ERRCODE = 'BQ005';
  END IF;

  DELETE FROM bearmq.sleeper;
  DELETE FROM bearmq.session;  -- not just dead: is_dead_v1 gives everybody some time after the server's start
  FOR l IN SELECT x.id FROM bearmq.lease x WHERE NOT x.finished ORDER BY x.id LOOP
    SELECT v_lost + count(*), v_failed + count(*) FILTER (WHERE r.failed) INTO v_lost, v_failed FROM bearmq.recover_v1(l.id, p_max_losses) r;
  END LOOP;

  v_xid := (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8;
  UPDATE bearmq.job j SET xid = NULL WHERE j.xid >= v_xid AND EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = j.id);
  UPDATE bearmq.job j SET xid = NULL WHERE j.xid IS NOT NULL AND EXISTS (SELECT 1 FROM bearmq.ticket t WHERE t.job_id = j.id);
  UPDATE bearmq.job j SET xid = v_xid WHERE j.xid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = j.id);
  UPDATE bearmq.ticket SET xid = v_xid;
  UPDATE bearmq.job_group SET through_xid = v_xid, through_id = 0;
  DELETE FROM bearmq.lease;
  DELETE FROM bearmq.log_interval;
  WITH i AS (
    INSERT INTO bearmq.log_interval (id, lane, behind, ahead)
    SELECT nextval('bearmq.lease_id'), n.id, x.at, x.at FROM bearmq.lane n, (SELECT format('%s:%s:', v_xid, v_xid)::pg_snapshot AS at) x RETURNING id, lane)
  INSERT INTO bearmq.lease (id, claim, lane, interval_id, lo_xid, lo_id, hi_xid, hi_id, session_id, finished)
    SELECT i.id, 0, i.lane, i.id, '0', 0, '0', 0, '00000000-0000-0000-0000-000000000000', true FROM i;
  UPDATE bearmq.meta SET value = (SELECT system_identifier::text FROM pg_control_system()) WHERE key = 'system_identifier';

  SELECT count(*) INTO queued FROM bearmq.job j WHERE j.xid = v_xid AND j.name IS NOT NULL;
  SELECT count(*) INTO waiting FROM bearmq.ticket;
  lost := v_lost;
  failed := v_failed;
  RETURN NEXT;
END $body$;
