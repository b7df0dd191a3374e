-- How much of the WAL is not on disk.
SELECT (pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn())::float8;
