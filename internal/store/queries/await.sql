-- $1 the process, $2 how long it is believed to wait.
INSERT INTO bearmq.awaiter (id, expires_at) VALUES ($1, clock_timestamp() + $2)
  ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
