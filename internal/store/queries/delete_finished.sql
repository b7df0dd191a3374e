SELECT deleted, reached FROM bearmq.delete_finished_v1($1, $2, $3, $4)
