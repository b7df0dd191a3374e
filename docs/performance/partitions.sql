-- Deletes against partitions that are dropped whole: what retention costs, and what partitions cost everything else.
--
--   psql -X -f docs/performance/partitions.sql "$DATABASE_URL"
--
-- 1,000,000 jobs and their outcomes, in tables like those of the engine: once plain and deleted 5,000 at a time, once in
-- partitions of 100,000 ids that are dropped. It drops and makes the schema "partitions". The same with 100 older partitions, of jobs that are kept. Three rounds; medians.
\set QUIET on
\pset footer off
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS partitions CASCADE;
CREATE SCHEMA partitions;
SET search_path = partitions;
SET jit = off;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET plan_cache_mode = force_generic_plan;

CREATE TABLE measured (variant text, step text, ms double precision, wal bigint);

CREATE FUNCTION make(p_variant text) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  v_parts integer := CASE p_variant WHEN 'plain' THEN 0 WHEN 'partitions' THEN 10 ELSE 110 END;
  v_by    text := CASE WHEN p_variant = 'plain' THEN '' ELSE ' PARTITION BY RANGE (id)' END;
BEGIN
  DROP TABLE IF EXISTS job, outcome;
  EXECUTE 'CREATE TABLE job (id bigint PRIMARY KEY, xid xid8, created_at timestamptz NOT NULL, lane integer NOT NULL,
    name text COLLATE "C", group_key text COLLATE "C", payload json, options json)' || v_by;
  CREATE INDEX job_log ON job (lane, xid, id) WHERE xid IS NOT NULL;
  EXECUTE 'CREATE TABLE outcome (id bigint PRIMARY KEY, claim bigint NOT NULL, finished_at timestamptz NOT NULL, seconds real,
    attempt smallint NOT NULL, state "char" NOT NULL, result json, error text)' || v_by;
  -- The last ten are for the jobs of the measurement, those before for what is kept: ids below 0.
  FOR i IN 0 .. v_parts - 1 LOOP
    EXECUTE format('CREATE TABLE job_%s PARTITION OF job FOR VALUES FROM (%s) TO (%s)', i, (i - v_parts + 10) * 100000, (i - v_parts + 11) * 100000);
    EXECUTE format('CREATE TABLE outcome_%s PARTITION OF outcome FOR VALUES FROM (%s) TO (%s)', i, (i - v_parts + 10) * 100000, (i - v_parts + 11) * 100000);
    IF i < v_parts - 10 THEN -- as a kept partition: not empty
      EXECUTE format('INSERT INTO job SELECT (%1$s::bigint - %2$s + 10) * 100000 + n, ''1'', now(), 1, ''work'', NULL, ''1'', NULL FROM generate_series(1, 100) n', i, v_parts);
    END IF;
  END LOOP;
END $body$;

CREATE PROCEDURE measure(p_variant text) LANGUAGE plpgsql AS $body$
DECLARE
  v_began timestamptz; v_wal pg_lsn; v_xid xid8 := '0'; v_id bigint := 0; v_n bigint;
  c_step text;
BEGIN
  CHECKPOINT; -- what follows is written into new pages, so there are hardly any full-page images
  PERFORM make(p_variant);
  COMMIT;
  FOREACH c_step IN ARRAY ARRAY['enqueue', 'claim', 'finish', 'delete'] LOOP
    v_began := clock_timestamp(); v_wal := pg_current_wal_insert_lsn();
    CASE c_step
    WHEN 'enqueue' THEN
      FOR i IN 0 .. 99 LOOP
        INSERT INTO job SELECT i * 10000 + n, pg_current_xact_id(), clock_timestamp(), 1, 'work', NULL,
          '{"text":"01234567890123456789012345678901234567890"}', NULL FROM generate_series(0, 9999) n;
        COMMIT;
      END LOOP;
    WHEN 'claim' THEN -- 1,000 a time, on from the last one
      FOR i IN 1 .. 1000 LOOP
        SELECT max(j.xid), max(j.id), count(*) INTO v_xid, v_id, v_n
          FROM (SELECT * FROM job j WHERE j.lane = 1 AND j.xid IS NOT NULL AND (j.xid, j.id) > (greatest(v_xid, '2'), v_id) ORDER BY j.xid, j.id LIMIT 1000) j;
        IF v_n <> 1000 THEN RAISE EXCEPTION 'a claim of % jobs', v_n; END IF;
      END LOOP;
    WHEN 'finish' THEN
      FOR i IN 0 .. 999 LOOP
        INSERT INTO outcome SELECT i * 1000 + n, 4711, clock_timestamp(), 0.001, 1, 'c', NULL, NULL FROM generate_series(0, 999) n;
        COMMIT;
      END LOOP;
    WHEN 'delete' THEN
      IF p_variant = 'plain' THEN
        FOR i IN 0 .. 199 LOOP
          DELETE FROM outcome o WHERE o.id = ANY (ARRAY(SELECT generate_series(i * 5000, i * 5000 + 4999)::bigint));
          DELETE FROM job j WHERE j.id = ANY (ARRAY(SELECT generate_series(i * 5000, i * 5000 + 4999)::bigint));
          COMMIT;
        END LOOP;
      ELSE
        SELECT count(*) - 10 INTO v_n FROM pg_inherits WHERE inhparent = 'job'::regclass;
        FOR i IN v_n .. v_n + 9 LOOP
          EXECUTE format('DROP TABLE job_%s, outcome_%1$s', i);
          COMMIT;
        END LOOP;
      END IF;
    END CASE;
    INSERT INTO measured VALUES (p_variant, c_step, extract(epoch FROM clock_timestamp() - v_began) * 1000, pg_current_wal_insert_lsn() - v_wal);
    COMMIT;
  END LOOP;
END $body$;

\timing off
CALL measure('plain'); CALL measure('partitions'); CALL measure('110 partitions');
CALL measure('110 partitions'); CALL measure('plain'); CALL measure('partitions');
CALL measure('partitions'); CALL measure('110 partitions'); CALL measure('plain');

\pset title 'Microseconds a job'
SELECT step, round(min(us) FILTER (WHERE variant = 'plain'), 2) AS plain, round(min(us) FILTER (WHERE variant = 'partitions'), 2) AS "10 partitions",
    round(min(us) FILTER (WHERE variant = '110 partitions'), 2) AS "110 partitions"
  FROM (SELECT variant, step, (percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) / 1000)::numeric AS us FROM measured GROUP BY 1, 2) m
  GROUP BY step ORDER BY array_position(ARRAY['enqueue', 'claim', 'finish', 'delete'], step);
\pset title 'Bytes of WAL a job'
SELECT step, min(b) FILTER (WHERE variant = 'plain') AS plain, min(b) FILTER (WHERE variant = 'partitions') AS "10 partitions",
    min(b) FILTER (WHERE variant = '110 partitions') AS "110 partitions"
  FROM (SELECT variant, step, round((percentile_cont(0.5) WITHIN GROUP (ORDER BY wal) / 1000000)::numeric) AS b FROM measured GROUP BY 1, 2) m
  GROUP BY step ORDER BY array_position(ARRAY['enqueue', 'claim', 'finish', 'delete'], step);
DROP SCHEMA partitions CASCADE;
