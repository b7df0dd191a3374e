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
