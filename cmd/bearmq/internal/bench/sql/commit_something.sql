-- A commit that waits for the disk.
SELECT pg_logical_emit_message(true, 'bearmq bench', '')
