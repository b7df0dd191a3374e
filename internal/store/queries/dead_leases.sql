-- What time it is, and leases of dead sessions: one query, for it is made every few seconds.
SELECT clock_timestamp(), ARRAY(SELECT bearmq.dead_leases_v1($1, $2))
