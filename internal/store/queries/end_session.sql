SELECT bearmq.end_session_v1($1)
