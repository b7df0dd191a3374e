-- notify_lanes_v1 notifies the sessions that sleep on the channels of these lanes, other than p_but. NOTIFY takes a
-- global lock at commit, so where nobody sleeps nothing is sent.
CREATE FUNCTION bearmq.notify_lanes_v1(p_lanes integer[], p_but uuid) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM bearmq.sleeper) THEN RETURN; END IF;
  PERFORM pg_notify('bearmq_wake', l.id::text) FROM bearmq.lane l
    WHERE l.id = ANY (p_lanes) AND EXISTS (SELECT 1 FROM bearmq.sleeper s
      WHERE s.session_id IS DISTINCT FROM p_but AND (s.channels IS NULL OR l.channel = ANY (s.channels)));
END $body$;
