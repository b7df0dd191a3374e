-- The measured jobs, by the number in their payload: those that are finished, or where none has run, those that wait.
SELECT (payload->>'i')::bigint, state = $1 FROM bearmq.job_state WHERE name LIKE 'bench%';
