SELECT deleted, reached, more FROM bearmq.delete_finished_v1($1, $2, $3, $4)
