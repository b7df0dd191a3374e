-- What SQL producers call: psql, triggers, programs in other languages. docs/sql.md has it with examples. These functions keep their
-- names; a parameter may be added at the end.

-- check_text_v1 refuses what the library refuses too.
CREATE FUNCTION bearmq.check_text_v1(p_what text, p_text text, p_bytes integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  IF p_text = '' OR octet_length(p_text) > p_bytes OR p_text ~ '[[:cntrl:]]' THEN
    RAISE EXCEPTION 'bearmq: % must have 1 to % bytes without control characters', p_what, p_bytes USING ERRCODE = 'invalid_parameter_value';
  END IF;
END $body$;

-- enqueue_many makes a job of each payload, in their order, in the caller's transaction, and returns their ids in that order. What is
-- NULL is as the definition that is deployed under this name says, or else as a Spec without it. No lane is made here, where two
-- producers that are the first to use it would wait for each other: make_channel does that beforehand.
-- Locks: none.
CREATE FUNCTION bearmq.enqueue_many(name text, payloads json[], channel text DEFAULT NULL, group_key text DEFAULT NULL,
  run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, attempts integer DEFAULT NULL, priority integer DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
#variable_conflict use_column
DECLARE
  v_defaults json;
  v_channel  text := channel;
  v_priority integer := priority;
  v_lane     integer;
  v_run_at   timestamptz := run_at;
  v_options  json;
  v_ids      bigint[];
  v_bad      integer;
BEGIN
  IF name IS NULL THEN
    RAISE EXCEPTION 'bearmq: name must not be NULL' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM bearmq.check_text_v1('name', name, 128), bearmq.check_text_v1('channel', channel, 128);
  IF octet_length(group_key) > 512 THEN
    RAISE EXCEPTION 'bearmq: group_key must have at most 512 bytes' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF attempts NOT BETWEEN 1 AND 32767 THEN
    RAISE EXCEPTION 'bearmq: attempts % must be 1 to 32767', attempts USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF priority NOT BETWEEN -100 AND 100 THEN
    RAISE EXCEPTION 'bearmq: priority % must be -100 to 100', priority USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF delay < interval '0' OR delay > interval '10 years' THEN
    RAISE EXCEPTION 'bearmq: delay % must be 0 to ten years', delay USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF run_at IS NOT NULL AND delay IS NOT NULL THEN
    RAISE EXCEPTION 'bearmq: run_at must not be given together with delay' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF run_at NOT BETWEEN '1970-01-01 00:00:00Z' AND '9999-12-31 23:59:59Z' THEN
    RAISE EXCEPTION 'bearmq: run_at % must be in the years 1970 to 9999', run_at USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- json takes what jsonb, and Go, do not: the escapes of NUL and of half a character
  SELECT u.n INTO v_bad FROM unnest(payloads) WITH ORDINALITY u(payload, n) WHERE u.payload IS NULL LIMIT 1;
  IF v_bad IS NOT NULL THEN
    RAISE EXCEPTION 'bearmq: payload % must not be NULL; use ''null''', v_bad USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM u::jsonb FROM unnest(payloads) u;

  SELECT d.defaults, coalesce(v_channel, d.channel) INTO v_defaults, v_channel FROM bearmq.job_definition d WHERE d.name = enqueue_many.name;
  v_channel := coalesce(v_channel, enqueue_many.channel, 'default');
  v_priority := coalesce(v_priority, (v_defaults->>'priority')::integer, 0);
  IF v_run_at IS NULL THEN
    v_run_at := clock_timestamp() + coalesce(delay, nullif((v_defaults->>'delay_ms')::double precision, 0) * interval '1 millisecond');
    IF delay = interval '0' THEN v_run_at := NULL; END IF;
  END IF;
  IF attempts IS NOT NULL THEN v_options := json_build_object('attempts', attempts); END IF;
  SELECT l.id INTO v_lane FROM bearmq.lane l WHERE l.channel = v_channel AND l.priority = v_priority;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'bearmq: there is no channel % with priority %', quote_literal(v_channel), v_priority USING ERRCODE = 'undefined_object',
      HINT = format('Deploy a definition that has it, or call make_channel(%L, %s), once and in a transaction of its own.', v_channel, v_priority);
  END IF;

  SELECT array_agg(u.id ORDER BY u.n) INTO v_ids FROM (SELECT nextval('bearmq.job_id') AS id, u.n FROM (
    SELECT n FROM generate_series(1, cardinality(payloads)) n ORDER BY n) u) u;
  INSERT INTO bearmq.job (id, xid, lane, name, payload, group_key, options)
    SELECT u.id, CASE WHEN v_run_at IS NULL THEN pg_current_xact_id() END, v_lane, enqueue_many.name, u.payload,
      nullif(enqueue_many.group_key, ''), v_options FROM unnest(v_ids, payloads) u(id, payload);
  IF v_run_at IS NOT NULL THEN
    INSERT INTO bearmq.ticket (job_id, lane, name, group_key, state, run_at)
      SELECT u, v_lane, enqueue_many.name, nullif(enqueue_many.group_key, ''), 'd', greatest(v_run_at, clock_timestamp()) FROM unnest(v_ids) u;
  END IF;
  PERFORM bearmq.notify_lanes_v1(ARRAY[v_lane], NULL);
  RETURN QUERY SELECT u.id FROM unnest(v_ids) WITH ORDINALITY u(id, n) ORDER BY u.n;
END $body$;

-- make_channel makes a channel at a priority, where it does not exist, for enqueue. Call it in a transaction of its own.
CREATE FUNCTION bearmq.make_channel(channel text, priority integer DEFAULT 0) RETURNS void
LANGUAGE plpgsql AS $body$
BEGIN
  PERFORM bearmq.check_text_v1('channel', channel, 128);
  IF channel IS NULL OR priority IS NULL OR priority NOT BETWEEN -100 AND 100 THEN
    RAISE EXCEPTION 'bearmq: channel and priority must not be NULL, and priority must be -100 to 100' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM bearmq.make_lane_v1(channel, priority::smallint);
END $body$;

-- enqueue makes one job, as enqueue_many does, and returns its id.
CREATE FUNCTION bearmq.enqueue(name text, payload json DEFAULT 'null', channel text DEFAULT NULL, group_key text DEFAULT NULL,
  run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, attempts integer DEFAULT NULL, priority integer DEFAULT NULL)
RETURNS bigint
LANGUAGE sql AS $body$
  SELECT bearmq.enqueue_many(name, ARRAY[payload], channel, group_key, run_at, delay, attempts, priority)
$body$;

-- enqueue_row is a trigger for any table, for each row: the job's name is its first argument, its payload the new row, or the old one
-- where it is deleted. A second argument is JSON with any of channel, group_key, delay, attempts and priority; group_column
-- names the column whose value is the group.
CREATE FUNCTION bearmq.enqueue_row() RETURNS trigger
LANGUAGE plpgsql AS $body$
DECLARE
  v_row     json := CASE WHEN TG_OP = 'DELETE' THEN to_json(OLD) ELSE to_json(NEW) END;
  v_options json := coalesce(TG_ARGV[1], '{}');
  v_unknown text;
  v_column  text := v_options->>'group_column';
BEGIN
  SELECT k INTO v_unknown FROM json_object_keys(v_options) k WHERE k NOT IN ('channel', 'group_key', 'group_column', 'delay', 'attempts', 'priority') LIMIT 1;
  IF TG_WHEN <> 'AFTER' OR TG_LEVEL <> 'ROW' OR TG_NARGS NOT BETWEEN 1 AND 2 OR v_unknown IS NOT NULL THEN
    RAISE EXCEPTION 'bearmq: trigger % on %: enqueue_row is AFTER and FOR EACH ROW, with a job''s name and then perhaps JSON with channel, group_key, group_column, delay, attempts, priority%',
      TG_NAME, TG_TABLE_NAME, coalesce(', not ' || v_unknown, '') USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF v_column IS NOT NULL AND v_row->v_column IS NULL THEN
    RAISE EXCEPTION 'bearmq: trigger % on %: there is no column % for the group', TG_NAME, TG_TABLE_NAME, v_column USING ERRCODE = 'undefined_column';
  END IF;
  PERFORM bearmq.enqueue(TG_ARGV[0], v_row, v_options->>'channel', coalesce(v_options->>'group_key', v_row->>v_column),
    NULL, (v_options->>'delay')::interval, (v_options->>'attempts')::integer, (v_options->>'priority')::integer);
  RETURN NULL;
END $body$;

