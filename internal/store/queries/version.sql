SELECT coalesce(max(version), 0) FROM bearmq.migration
