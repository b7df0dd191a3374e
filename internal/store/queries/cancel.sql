SELECT id, state, ended FROM bearmq.cancel_v1($1)
