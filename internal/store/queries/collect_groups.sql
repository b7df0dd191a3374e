SELECT deleted, reached FROM bearmq.collect_groups_v1($1, $2, $3)
