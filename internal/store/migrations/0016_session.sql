-- A session is the liveness of one worker. A dead session never revives: its worker begins another. One that has expired is not
-- dead before somebody declares it so, in dead_leases_v1: when the clock jumps, all have expired and all are alive.
CREATE FUNCTION bearmq.begin_session_v1(p_session uuid, p_ttl interval, p_host text, p_pid integer, p_channels text[]) RETURNS void
LANGUAGE sql AS $body$
  INSERT INTO bearmq.session (id, expires_at, ttl, host, pid, channels)
    VALUES (p_session, clock_timestamp() + p_ttl, p_ttl, p_host, p_pid, p_channels)
$body$;

-- renew_session_v1 lets a session live for another TTL, and returns the jobs that were taken away from it; NULL where it is
-- dead. p_told is what the last answer said: it is forgotten only when the worker repeats it, for an answer may be lost.
CREATE FUNCTION bearmq.renew_session_v1(p_session uuid, p_told bigint[]) RETURNS bigint[]
LANGUAGE plpgsql AS $body$
DECLARE
  v_revoked bigint[];
BEGIN
  SELECT CASE WHEN s.revoked[:cardinality(p_told)] = p_told THEN s.revoked[cardinality(p_told) + 1:] ELSE s.revoked END INTO v_revoked FROM bearmq.session s WHERE s.id = p_session AND NOT s.dead FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  UPDATE bearmq.session s SET expires_at = clock_timestamp() + s.ttl, revoked = v_revoked WHERE s.id = p_session;
  RETURN v_revoked;
END $body$;

-- end_session_v1 ends a session at once, so that what it still holds is recovered without waiting for its TTL.
CREATE FUNCTION bearmq.end_session_v1(p_session uuid) RETURNS void
LANGUAGE sql AS $body$
  DELETE FROM bearmq.sleeper WHERE session_id = p_session;
  UPDATE bearmq.session SET expires_at = clock_timestamp() WHERE id = p_session AND expires_at > clock_timestamp();
$body$;
