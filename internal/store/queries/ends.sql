SELECT id, known, state::text, result, coalesce(error, '') FROM bearmq.ends_v1($1)
