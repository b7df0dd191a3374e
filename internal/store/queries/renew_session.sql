SELECT bearmq.renew_session_v1($1, $2)
