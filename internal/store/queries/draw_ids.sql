-- The ids of jobs that COPY will write, in call order, and the time from which their delays count.
SELECT nextval('bearmq.job_id'), clock_timestamp() FROM generate_series(1, $1::integer)
