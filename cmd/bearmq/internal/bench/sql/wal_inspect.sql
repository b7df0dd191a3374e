-- The bytes of the records between two positions, without full-page images.
SELECT sum(record_size)::float8 FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn);
