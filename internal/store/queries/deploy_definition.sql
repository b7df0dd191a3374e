-- $1 name, $2 channel, $3 defaults. Returns a row where something changed.
INSERT INTO bearmq.job_definition AS d (name, channel, defaults) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET channel = excluded.channel, defaults = excluded.defaults, deployed_at = clock_timestamp()
  WHERE d.channel <> excluded.channel OR d.defaults::text <> excluded.defaults::text
