-- What the engine's tables take on disk, with their indexes.
SELECT c.relname, pg_total_relation_size(c.oid)::float8
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'bearmq' AND c.relkind IN ('r', 'p');
