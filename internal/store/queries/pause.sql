-- $1 channel, $2 paused. Whoever sleeps is told of a channel that is resumed.
WITH l AS (UPDATE bearmq.lane SET paused = $2 WHERE channel = $1 AND paused <> $2 RETURNING id)
SELECT bearmq.notify_lanes_v1(array_agg(id), NULL) FROM l WHERE NOT $2
