INSERT INTO bearmq.sleeper (session_id, channels) VALUES ($1, $2) ON CONFLICT (session_id) DO NOTHING
