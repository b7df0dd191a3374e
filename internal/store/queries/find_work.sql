SELECT lane, channel, priority, log, due, next_due FROM bearmq.find_work_v1($1, $2, $3, $4)
