-- The lane, 0 in a restored database; and what system_identifier.sql tells.
SELECT CASE WHEN r.restored THEN 0 ELSE bearmq.make_lane_v1($1, $2) END, r.restored, r.stored, r.found FROM (
  SELECT bearmq.is_restored_v1() AS restored, (SELECT value FROM bearmq.meta WHERE key = 'system_identifier') AS stored,
    (SELECT system_identifier::text FROM pg_control_system()) AS found OFFSET 0) r
