-- $1 name
UPDATE bearmq.schedule SET paused = true WHERE name = $1 AND NOT removed RETURNING 1
