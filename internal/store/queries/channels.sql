SELECT channel, bool_or(paused) FROM bearmq.lane GROUP BY channel ORDER BY channel
