-- Which of these jobs are in the state.
SELECT id FROM bearmq.job_state WHERE id = ANY ($1) AND state = $2;
