-- The cluster whose transaction ids the log holds, and the one that this is.
SELECT (SELECT value FROM bearmq.meta WHERE key = 'system_identifier'), (SELECT system_identifier::text FROM pg_control_system())
