-- Slots that make no job: $1 name, $2 spec, $3 next_at as seen, $4 the next one.
UPDATE bearmq.schedule SET next_at = $4 WHERE name = $1 AND spec = $2 AND next_at = $3 AND NOT paused AND NOT removed
