-- Every function of the engine begins with this. A claim that reads the log in a REPEATABLE READ transaction hands jobs
-- out twice; a claim in a transaction that has written skips the jobs that it wrote itself.
CREATE FUNCTION bearmq.guard_v1(p_claims boolean) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'bearmq needs READ COMMITTED, this transaction is %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'BQ001', HINT = 'Begin the transaction with ISOLATION LEVEL READ COMMITTED.';
  END IF;
  IF p_claims AND pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'a claim needs a transaction of its own, this one has written already' USING ERRCODE = 'BQ002';
  END IF;
END $body$;
