-- complete_tx_v1 writes a job's outcome in the transaction of its handler, behind the same fence as finish_v1. The lease
-- stays locked against recovery until that transaction ends, so the transaction may not idle longer than the session
-- lives. It touches no group: finish does, afterwards. Until then the job has a ticket, which keeps it from retention.
-- It returns false where the lease was lost.
-- Index: the keys of lease, outcome, job and ticket. Locks: the lease (FOR KEY SHARE: several jobs of a lease may do this at once).
CREATE FUNCTION bearmq.complete_tx_v1(p_session uuid, p_lease bigint, p_claim bigint, p_job bigint, p_group text, p_attempt smallint,
  p_seconds real, p_result json)
RETURNS boolean
LANGUAGE plpgsql AS $body$
DECLARE
  v_unlocked text[];
  v_left     integer;
  v_now      integer;
BEGIN
  SELECT l.unlocked INTO v_unlocked FROM bearmq.lease l WHERE l.id = p_lease AND l.claim = p_claim AND NOT l.finished FOR KEY SHARE;
  IF NOT FOUND OR p_group = ANY (v_unlocked) THEN RETURN false; END IF;
  -- It may have expired, when the clock jumped, and live all the same.
  SELECT extract(epoch FROM greatest(s.expires_at - clock_timestamp(), s.ttl / 3)) * 1000 INTO v_left FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead;
  IF NOT FOUND THEN RETURN false; END IF;
  SELECT setting::integer INTO v_now FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout';
  IF v_now = 0 OR v_now > v_left THEN
    PERFORM set_config('idle_in_transaction_session_timeout', v_left::text, true);
  END IF;
  INSERT INTO bearmq.outcome (job_id, state, attempt, claim, seconds, result) VALUES (p_job, 'c', p_attempt, p_claim, p_seconds, p_result);
  INSERT INTO bearmq.ticket (job_id, lane, xid, name, group_key, attempt, state, lease_id)
    SELECT j.id, j.lane, coalesce(j.xid, '0'), j.name, j.group_key, p_attempt, 'c', p_lease FROM bearmq.job j WHERE j.id = p_job
    ON CONFLICT (job_id) DO NOTHING;
  PERFORM bearmq.notify_ends_v1(ARRAY[p_job]);
  RETURN true;
END $body$;

-- completing_v1 waits until no transaction that may complete a job is open, and tells whether its outcome stands now. It
-- raises lock_not_available where one stays open for 2 seconds: ask again.
-- Index: outcome's key: an insert of the same key waits for the transaction that has made one.
CREATE FUNCTION bearmq.completing_v1(p_job bigint, p_claim bigint) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '2s' AS $body$
BEGIN
  PERFORM bearmq.guard_v1(false);
  IF EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = p_job AND o.claim = p_claim) THEN RETURN true; END IF;
  BEGIN
    INSERT INTO bearmq.outcome (job_id, state, attempt, claim) VALUES (p_job, 'x', 1, p_claim);
    RAISE EXCEPTION 'only asked' USING ERRCODE = 'BQ999';
  EXCEPTION
    WHEN unique_violation THEN NULL;
    WHEN SQLSTATE 'BQ999' THEN NULL;
  END;
  RETURN EXISTS (SELECT 1 FROM bearmq.outcome o WHERE o.job_id = p_job AND o.claim = p_claim);
END $body$;
