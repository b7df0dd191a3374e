-- A definition's schedules: $1 its name, $2 the specs, $3 their first ticks. One that is there already keeps its next tick;
-- one that is not among them any more goes.
WITH gone AS (DELETE FROM bearmq.schedule WHERE name = $1 AND spec <> ALL ($2::text[]))
INSERT INTO bearmq.schedule (name, spec, next_at) SELECT $1, u.spec, u.next_at FROM unnest($2::text[], $3::timestamptz[]) u(spec, next_at)
ON CONFLICT (name, spec) DO NOTHING
