SELECT id, unfinished FROM bearmq.tick_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)
