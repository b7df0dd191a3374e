-- What the engine's tables take on disk, with their indexes; partitions count as their table.
SELECT t.relname, sum(coalesce(pg_total_relation_size(c.oid), 0))::float8
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid)
  WHERE n.nspname = 'bearmq' AND c.relkind IN ('r', 'p')
  GROUP BY t.relname;
