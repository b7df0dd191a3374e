-- $1 name, $2 the new spec, $3 its next tick
UPDATE bearmq.schedule SET spec = $2, next_at = CASE WHEN spec = $2 THEN next_at ELSE $3 END WHERE name = $1 AND NOT removed RETURNING 1
