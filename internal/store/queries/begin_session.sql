SELECT bearmq.begin_session_v1($1, $2, $3, $4, $5)
