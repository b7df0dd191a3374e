-- Where the WAL is, and what the statistics say of it.
SELECT pg_current_wal_insert_lsn()::text, wal_bytes::float8, wal_fpi::float8 FROM pg_stat_wal;
