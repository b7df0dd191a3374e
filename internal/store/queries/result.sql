SELECT s.state, s.result, coalesce(s.error, ''), s.attempt FROM bearmq.job_state s WHERE s.id = $1
