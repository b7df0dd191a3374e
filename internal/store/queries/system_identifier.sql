-- Whether the log holds transaction ids that mean nothing here; the cluster whose ids they are, and the one that this is.
SELECT bearmq.is_restored_v1(), (SELECT value FROM bearmq.meta WHERE key = 'system_identifier'), (SELECT system_identifier::text FROM pg_control_system())
