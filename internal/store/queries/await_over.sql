DELETE FROM bearmq.awaiter WHERE id = $1
