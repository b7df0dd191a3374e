-- $1 name, $2 the spec as it was seen, $3 its next tick: what a pause has missed is not made.
UPDATE bearmq.schedule SET paused = false, removed = false, next_at = CASE WHEN paused OR removed THEN $3 ELSE next_at END
WHERE name = $1 AND spec = $2 RETURNING 1
