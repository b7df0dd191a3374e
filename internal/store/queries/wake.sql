DELETE FROM bearmq.sleeper WHERE session_id = $1
