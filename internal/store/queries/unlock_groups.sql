SELECT u.job_id, u.name, l.channel, u.group_key, u.attempt, u.losses, u.failed, u.held_for FROM bearmq.unlock_groups_v1($1, $2) u LEFT JOIN bearmq.lane l ON l.id = u.lane
