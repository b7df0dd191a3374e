SELECT bearmq.pause_v1($1, $2)
