-- The tables of the engine. docs/engine.md tells how they work together.
-- Every text that is compared uses the "C" collation: an index must not depend on the C library of the host.
--
-- The functions that use them are planned once and for all, perhaps while the tables are empty, and then any plan looks good.
-- So they are written in ways that leave one plan only: a lookup is LATERAL with LIMIT 1, an EXISTS has OFFSET 0, and rows are
-- changed by key = ANY (array) or by their ctid. A join to unnest(array) read the whole table at each finish.

CREATE TABLE bearmq.meta (
  key   text PRIMARY KEY,
  value text NOT NULL
);
COMMENT ON TABLE bearmq.meta IS 'system_identifier: the cluster whose transaction ids the log holds';
INSERT INTO bearmq.meta SELECT 'system_identifier', system_identifier::text FROM pg_control_system();

CREATE TABLE bearmq.lane (
  id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel  text COLLATE "C" NOT NULL,
  priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
  paused   boolean NOT NULL DEFAULT false,
  UNIQUE (channel, priority)
) WITH (fillfactor = 50);
COMMENT ON TABLE bearmq.lane IS 'a channel at one priority; claims of a lane take turns by locking its row';

CREATE SEQUENCE bearmq.job_id;
CREATE TABLE bearmq.job (
  id         bigint NOT NULL DEFAULT nextval('bearmq.job_id'),
  xid        xid8 DEFAULT pg_current_xact_id(),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lane       integer NOT NULL,
  name       text COLLATE "C",
  group_key  text COLLATE "C",
  payload    json,
  options    json,
  PRIMARY KEY (id),
  CONSTRAINT job_or_turn CHECK (CASE WHEN name IS NULL THEN group_key IS NOT NULL ELSE payload IS NOT NULL END)
);
COMMENT ON TABLE bearmq.job IS 'the log: a row is appended and never changed; xid is null for a job that starts with a ticket; a row without a name is a turn, which wakes a group that is free and has blocked jobs';
CREATE INDEX job_log ON bearmq.job (lane, xid, id) WHERE xid IS NOT NULL;

CREATE TABLE bearmq.ticket (
  job_id    bigint PRIMARY KEY,
  xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
  run_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_id  bigint,
  lane      integer NOT NULL,
  attempt   smallint NOT NULL DEFAULT 1,
  losses    smallint NOT NULL DEFAULT 0,
  state     "char" NOT NULL CHECK (state IN ('d', 'n', 'b', 'c')),
  alone     boolean NOT NULL DEFAULT false,
  name      text COLLATE "C" NOT NULL,
  group_key text COLLATE "C",
  CONSTRAINT ticket_claimed CHECK ((state = 'c') = (lease_id IS NOT NULL)),
  CONSTRAINT ticket_blocked CHECK (state <> 'b' OR group_key IS NOT NULL)
) WITH (fillfactor = 70);
COMMENT ON TABLE bearmq.ticket IS 'why a job is not simply next in the log: d due at run_at, n waits for a session that asks for its name, b blocked behind its group, c claimed by a lease; xid keeps its place in the order of its group; alone: it may be what kills its process';
CREATE INDEX ticket_due ON bearmq.ticket (lane, alone, run_at) WHERE state = 'd';
CREATE INDEX ticket_named ON bearmq.ticket (lane, name, alone, run_at) WHERE state = 'n';
CREATE INDEX ticket_blocked ON bearmq.ticket (group_key, xid, job_id) WHERE state = 'b';
CREATE INDEX ticket_lease ON bearmq.ticket (lease_id) WHERE state = 'c';

CREATE SEQUENCE bearmq.lease_id;
CREATE TABLE bearmq.log_interval (
  id     bigint PRIMARY KEY,
  lane   integer NOT NULL,
  behind pg_snapshot NOT NULL,
  ahead  pg_snapshot NOT NULL
);
COMMENT ON TABLE bearmq.log_interval IS 'what a lane reads now: the jobs visible in ahead and not in behind; its id is that of the lease that opened it';
CREATE INDEX log_interval_lane ON bearmq.log_interval (lane, id);

CREATE TABLE bearmq.lease (
  id          bigint PRIMARY KEY,
  claim       bigint NOT NULL,
  interval_id bigint,
  lo_xid      xid8,
  lo_id       bigint,
  hi_xid      xid8,
  hi_id       bigint,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  session_id  uuid NOT NULL,
  lane        integer,
  finished    boolean NOT NULL DEFAULT false,
  unlocked    text[] COLLATE "C",
  progress    jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE bearmq.lease IS 'what one claim handed out: a stretch (lo, hi] of a lane, and the tickets that name it; the newest lease of a lane is the lane''s cursor; claim is the random number that fences it; unlocked names the groups taken away from it, progress when a job of a group last ended whose mailbox goes on';
CREATE INDEX lease_cursor ON bearmq.lease (lane, id) WHERE lane IS NOT NULL;
CREATE INDEX lease_session ON bearmq.lease (session_id);

CREATE TABLE bearmq.outcome (
  job_id      bigint PRIMARY KEY,
  claim       bigint NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seconds     real,
  attempt     smallint NOT NULL,
  state       "char" NOT NULL CHECK (state IN ('c', 'f', 'x')),
  result      json,
  error       text
);
COMMENT ON TABLE bearmq.outcome IS 'the one end of a job: c completed, f failed, x cancelled; claim is the claim that ended it';

CREATE TABLE bearmq.attempt_error (
  job_id    bigint NOT NULL,
  attempt   smallint NOT NULL,
  failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seconds   real,
  error     text NOT NULL,
  PRIMARY KEY (job_id, attempt)
);
COMMENT ON TABLE bearmq.attempt_error IS 'one failed attempt';

CREATE TABLE bearmq.session (
  id         uuid PRIMARY KEY,
  expires_at timestamptz NOT NULL,
  dead       boolean NOT NULL DEFAULT false,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ttl        interval NOT NULL,
  pid        integer NOT NULL,
  host       text NOT NULL,
  channels   text[],
  revoked    bigint[] NOT NULL DEFAULT '{}',
  returned   bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE bearmq.session IS 'a worker, which lives until somebody who saw it expired declares it dead: from then on it cannot be renewed, and its leases are recovered; revoked are the jobs taken away from it, which its next renewal tells it; returned are claims that it gave back before they had been made';

CREATE TABLE bearmq.sleeper (
  session_id uuid PRIMARY KEY,
  channels   text[]
);
COMMENT ON TABLE bearmq.sleeper IS 'the sessions that sleep until they are notified; nobody is notified while it has no row';

CREATE TABLE bearmq.cancellation (
  job_id   bigint NOT NULL,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE bearmq.cancellation IS 'the jobs that are to be cancelled by the worker that has them or claims them next; mostly empty. A job may stand there twice: a unique key would make two that cancel it wait for each other';
CREATE INDEX cancellation_job ON bearmq.cancellation (job_id);

CREATE TABLE bearmq.awaiter (
  id         uuid PRIMARY KEY,
  expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE bearmq.awaiter IS 'the processes that wait for the ends of jobs; ends are notified while one of them has not expired';

CREATE TABLE bearmq.group_anchor (
  key      text COLLATE "C" PRIMARY KEY,
  ver      bigint NOT NULL,
  lease_id bigint
) WITH (fillfactor = 50);
COMMENT ON TABLE bearmq.group_anchor IS 'the mutex of a group, which is locked; and its state as long as it has no other: taken by the lease that made it, then free';

CREATE TABLE bearmq.job_group (
  key         text COLLATE "C" NOT NULL,
  ver         bigint NOT NULL,
  lease_id    bigint,
  holder_job  bigint,
  through_xid xid8 NOT NULL DEFAULT '0',
  through_id  bigint NOT NULL DEFAULT 0,
  blocked     boolean NOT NULL DEFAULT false,
  PRIMARY KEY (key, ver),
  CONSTRAINT job_group_one_holder CHECK (lease_id IS NULL OR holder_job IS NULL)
);
COMMENT ON TABLE bearmq.job_group IS 'the state of a group that has been taken twice or has blocked jobs, read newest version first under the lock of its anchor; ver is also the fencing token; every blocked ticket of the group lies behind (through_xid, through_id)';

CREATE TABLE bearmq.job_definition (
  name        text COLLATE "C" PRIMARY KEY,
  channel     text COLLATE "C" NOT NULL,
  defaults    json NOT NULL,
  deployed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE bearmq.schedule (
  name     text COLLATE "C" PRIMARY KEY,
  spec     text COLLATE "C" NOT NULL,
  deployed text COLLATE "C",
  next_at  timestamptz NOT NULL,
  last_at  timestamptz,
  last_job bigint,
  paused   boolean NOT NULL DEFAULT false,
  removed  boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE bearmq.schedule IS 'a repeating job: its next tick, and the last one with its job; deployed is what the code of the definition says, spec what holds, which may have been changed since; removed: the code may still have it, but it makes no jobs';
