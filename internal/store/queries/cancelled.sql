-- Which of the jobs $1 are to be cancelled.
SELECT c.job_id FROM bearmq.cancellation c WHERE c.job_id = ANY ($1)
