SELECT r.job_id, r.name, l.channel, r.group_key, r.attempt, r.losses, r.failed FROM bearmq.recover_v1($1, $2) r LEFT JOIN bearmq.lane l ON l.id = r.lane
