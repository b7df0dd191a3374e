-- $1 schema, $2 how many transactions. How full the queue of notifications is, the rows of our tables as the statistics have
-- them, and the transactions of this database that have been open for longest. What others' do is hidden from a role that is
-- not a member of pg_read_all_stats: theirs are missing.
SELECT q.*, t.pid, t.prepared, t.application_name, t."user", t.host, t.state, t.age FROM (SELECT pg_notification_queue_usage(), coalesce(sum(n_live_tup), 0)::bigint, coalesce(sum(n_dead_tup), 0)::bigint
    FROM pg_catalog.pg_stat_user_tables WHERE schemaname = $1) q
  LEFT JOIN ((SELECT a.pid, '' AS prepared, a.application_name, coalesce(a.usename, '') AS "user", coalesce(host(a.client_addr), '') AS host,
        coalesce(a.state, '') AS state, a.xact_start AS began, clock_timestamp() - a.xact_start AS age
      FROM pg_catalog.pg_stat_activity a
      WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
    UNION ALL
      SELECT 0, p.gid, '', p.owner, '', 'prepared', p.prepared, clock_timestamp() - p.prepared
      FROM pg_catalog.pg_prepared_xacts p WHERE p.database = current_database())
    ORDER BY began LIMIT $2) t ON true
  ORDER BY t.began
