-- $1 name. The row stays: it remembers what the code says, so that the next deploy does not bring the schedule back.
UPDATE bearmq.schedule SET removed = true WHERE name = $1 AND NOT removed RETURNING 1
