-- $1 channel, $2 paused
UPDATE bearmq.lane SET paused = $2 WHERE channel = $1 AND paused <> $2
