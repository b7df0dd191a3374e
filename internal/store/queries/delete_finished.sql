-- Of the completed jobs and of the failed ones: one query, for it is made again and again.
-- $1 and $3 how long they are kept, $2 and $4 where to begin, $5 how many of each
SELECT c.deleted, c.reached, f.deleted, f.reached
FROM bearmq.delete_finished_v1(false, $1, $2, $5) c, bearmq.delete_finished_v1(true, $3, $4, $5) f
