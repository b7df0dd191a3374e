-- notify_lanes_v1 notifies the sessions that sleep on the channels of these lanes, other than p_but. NOTIFY takes a
-- global lock at commit, so where nobody sleeps nothing is sent. Nor is it where the queue of notifications is half full,
-- because some listener idles in a transaction: a full queue refuses commits, and sleepers poll anyway.
CREATE FUNCTION bearmq.notify_lanes_v1(p_lanes integer[], p_but uuid) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM bearmq.sleeper) OR pg_notification_queue_usage() > 0.5 THEN RETURN; END IF;
  PERFORM pg_notify('bearmq_wake', l.id::text) FROM bearmq.lane l
    WHERE l.id = ANY (p_lanes) AND EXISTS (SELECT 1 FROM bearmq.sleeper s
      WHERE s.session_id IS DISTINCT FROM p_but AND (s.channels IS NULL OR l.channel = ANY (s.channels)));
END $body$;
