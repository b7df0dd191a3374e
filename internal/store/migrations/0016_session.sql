-- A session is the liveness of one worker. A dead session never revives: its worker begins another.
CREATE FUNCTION bearmq.begin_session_v1(p_session uuid, p_ttl interval, p_host text, p_pid integer, p_channels text[]) RETURNS void
LANGUAGE sql AS $body$
  INSERT INTO bearmq.session (id, expires_at, ttl, host, pid, channels)
    VALUES (p_session, clock_timestamp() + p_ttl, p_ttl, p_host, p_pid, p_channels)
$body$;

-- renew_session_v1 lets a session live for another TTL, and returns the jobs that were taken away from it since the last
-- time; NULL where it is dead.
CREATE FUNCTION bearmq.renew_session_v1(p_session uuid) RETURNS bigint[]
LANGUAGE plpgsql AS $body$
DECLARE
  v_revoked bigint[];
BEGIN
  SELECT s.revoked INTO v_revoked FROM bearmq.session s WHERE s.id = p_session AND s.expires_at > clock_timestamp() FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  UPDATE bearmq.session s SET expires_at = clock_timestamp() + s.ttl, revoked = '{}' WHERE s.id = p_session;
  RETURN v_revoked;
END $body$;

-- end_session_v1 ends a session at once, so that what it still holds is recovered without waiting for its TTL.
CREATE FUNCTION bearmq.end_session_v1(p_session uuid) RETURNS void
LANGUAGE sql AS $body$
  DELETE FROM bearmq.sleeper WHERE session_id = p_session;
  UPDATE bearmq.session SET expires_at = clock_timestamp() WHERE id = p_session AND expires_at > clock_timestamp();
$body$;
