-- lock_channel_v1 keeps a lane from being made while its channel is paused or resumed.
CREATE FUNCTION bearmq.lock_channel_v1(p_channel text) RETURNS void
LANGUAGE sql AS $body$
  SELECT pg_advisory_xact_lock(hashtextextended('bearmq channel ' || p_channel, 'bearmq.lane'::regclass::oid::bigint))
$body$;

-- pause_v1 pauses or resumes all lanes of a channel. Whoever sleeps is told of a channel that is resumed.
CREATE FUNCTION bearmq.pause_v1(p_channel text, p_paused boolean) RETURNS void
LANGUAGE plpgsql AS $body$
DECLARE
  v_lanes integer[];
BEGIN
  PERFORM bearmq.guard_v1(false);
  PERFORM bearmq.lock_channel_v1(p_channel);
  WITH l AS (UPDATE bearmq.lane SET paused = p_paused WHERE channel = p_channel AND paused <> p_paused RETURNING id)
  SELECT array_agg(l.id) INTO v_lanes FROM l;
  IF NOT p_paused THEN PERFORM bearmq.notify_lanes_v1(v_lanes, NULL); END IF;
END $body$;

-- make_lane_v1 returns the lane of a channel at a priority and makes it, with the cursor from which its first claim
-- reads, where it does not exist. It is never called in an application's transaction: two producers that are the first
-- to use a channel would wait for each other.
CREATE FUNCTION bearmq.make_lane_v1(p_channel text, p_priority smallint) RETURNS integer
LANGUAGE plpgsql AS $body$
DECLARE
  v_lane integer;
  v_id   bigint;
BEGIN
  SELECT id INTO v_lane FROM bearmq.lane WHERE channel = p_channel AND priority = p_priority;
  IF FOUND THEN RETURN v_lane; END IF;
  PERFORM bearmq.lock_channel_v1(p_channel);
  INSERT INTO bearmq.lane (channel, priority, paused)
    VALUES (p_channel, p_priority, coalesce((SELECT bool_or(paused) FROM bearmq.lane WHERE channel = p_channel), false))
    ON CONFLICT (channel, priority) DO NOTHING RETURNING id INTO v_lane;
  IF v_lane IS NULL THEN
    SELECT id INTO STRICT v_lane FROM bearmq.lane WHERE channel = p_channel AND priority = p_priority;
    RETURN v_lane;
  END IF;
  v_id := nextval('bearmq.lease_id');
  INSERT INTO bearmq.log_interval (id, lane, behind, ahead) VALUES (v_id, v_lane, '1:1:', '1:1:');
  INSERT INTO bearmq.lease (id, claim, lane, interval_id, lo_xid, lo_id, hi_xid, hi_id, session_id, finished)
    VALUES (v_id, 0, v_lane, v_id, '0', 0, '0', 0, '00000000-0000-0000-0000-000000000000', true);
  RETURN v_lane;
END $body$;
SELECT bearmq.make_lane_v1('default', 0::smallint);
