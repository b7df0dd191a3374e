SELECT bearmq.completing_v1($1, $2)
