SELECT bearmq.make_lane_v1($1, $2), (SELECT value FROM bearmq.meta WHERE key = 'system_identifier'), (SELECT system_identifier::text FROM pg_control_system())
