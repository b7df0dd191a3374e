SELECT name, current_setting(name) FROM pg_settings WHERE name IN (
  'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'fsync', 'full_page_writes', 'synchronous_commit', 'wal_level',
  'wal_compression', 'autovacuum', 'max_connections')
ORDER BY name;
