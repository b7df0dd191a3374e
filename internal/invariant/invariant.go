// Package invariant checks that the tables of a job system fit together. It is
// for tests: the end of each that has run jobs is a good place.
package invariant

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DB is what a check needs of a pool, a connection or a transaction.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Check checks a quiet job system: no worker runs, or none has anything to do.
// Its error names every invariant that is broken, with what breaks it.
func Check(ctx context.Context, db DB, schema string) error {
	return check(ctx, db, schema, append(always[:len(always):len(always)], quiet...))
}

// CheckRunning checks what holds at any moment, also while workers run and
// processes die.
func CheckRunning(ctx context.Context, db DB, schema string) error {
	return check(ctx, db, schema, always)
}

// An invariant is a query for what breaks it: one column of text, no rows if it
// holds. It is written for the schema "bearmq".
type invariant struct{ name, query string }

// newest is the state of each group.
const newest = `(SELECT a.key, s.* FROM bearmq.group_anchor a, bearmq.group_state_v1(a.key) s)`

// ahead is whether the row j of the log lies ahead of the cursor of its lane,
// for one that has a lane and a place in the log.
const ahead = `EXISTS (SELECT FROM (SELECT * FROM bearmq.lease l WHERE l.lane = j.lane ORDER BY l.id DESC LIMIT 1) c
	JOIN bearmq.log_interval i ON i.id = c.interval_id
	WHERE NOT pg_visible_in_snapshot(j.xid, i.behind) AND NOT (pg_visible_in_snapshot(j.xid, i.ahead) AND (j.xid, j.id) <= (c.hi_xid, c.hi_id)))`

// always are the invariants that every commit keeps.
var always = []invariant{
	{"an outcome has a job",
		`SELECT o.job_id FROM bearmq.outcome o WHERE NOT EXISTS (SELECT FROM bearmq.job j WHERE j.id = o.job_id AND j.name IS NOT NULL)`},
	{"a job has at most one outcome",
		`SELECT o.job_id FROM bearmq.outcome o GROUP BY o.job_id HAVING count(*) > 1`},
	{"a failed attempt has a job",
		`SELECT e.job_id FROM bearmq.attempt_error e WHERE NOT EXISTS (SELECT FROM bearmq.job j WHERE j.id = e.job_id)`},
	{"a ticket has a job, and says the same of it",
		`SELECT t.job_id FROM bearmq.ticket t WHERE NOT EXISTS (SELECT FROM bearmq.job j WHERE j.id = t.job_id AND j.lane = t.lane
			AND j.name = t.name AND j.group_key IS NOT DISTINCT FROM t.group_key AND (j.xid IS NULL OR j.xid = t.xid))`},
	{"a job with an outcome has no ticket, except that CompleteTx has just finished it",
		`SELECT t.job_id FROM bearmq.ticket t JOIN bearmq.outcome o ON o.job_id = t.job_id WHERE t.state <> 'c'`},
	{"a claimed ticket has a lease that is not finished",
		`SELECT t.job_id FROM bearmq.ticket t WHERE t.state = 'c' AND NOT EXISTS (SELECT FROM bearmq.lease l WHERE l.id = t.lease_id AND NOT l.finished)`},
	{"a job outside the log has a ticket or an outcome",
		`SELECT j.id FROM bearmq.job j WHERE j.xid IS NULL AND NOT EXISTS (SELECT FROM bearmq.ticket t WHERE t.job_id = j.id)
			AND NOT EXISTS (SELECT FROM bearmq.outcome o WHERE o.job_id = j.id)`},
	{"a job of the log without ticket and outcome lies ahead of its lane's cursor, or in the stretch of a lease that is not finished",
		`SELECT j.id FROM bearmq.job j WHERE j.xid IS NOT NULL AND j.name IS NOT NULL AND NOT EXISTS (SELECT FROM bearmq.ticket t WHERE t.job_id = j.id)
			AND NOT EXISTS (SELECT FROM bearmq.outcome o WHERE o.job_id = j.id) AND NOT ` + ahead + `
			AND NOT EXISTS (SELECT FROM bearmq.lease l JOIN bearmq.log_interval i ON i.id = l.interval_id
				WHERE l.lane = j.lane AND NOT l.finished AND (j.xid, j.id) > (l.lo_xid, l.lo_id) AND (j.xid, j.id) <= (l.hi_xid, l.hi_id)
				AND pg_visible_in_snapshot(j.xid, i.ahead) AND NOT pg_visible_in_snapshot(j.xid, i.behind))`},
	{"a turn lies ahead of its lane's cursor",
		`SELECT j.id FROM bearmq.job j WHERE j.name IS NULL AND (j.xid IS NULL OR NOT ` + ahead + `)`},
	{"a lane has a cursor",
		`SELECT n.channel FROM bearmq.lane n WHERE NOT EXISTS (SELECT FROM bearmq.lease l WHERE l.lane = n.id)`},
	{"a lease of a lane has its interval",
		`SELECT l.id FROM bearmq.lease l WHERE l.lane IS NOT NULL AND NOT EXISTS (SELECT FROM bearmq.log_interval i WHERE i.id = l.interval_id AND i.lane = l.lane)
			AND (NOT l.finished OR l.id = (SELECT max(n.id) FROM bearmq.lease n WHERE n.lane = l.lane))`},
	{"a lease that is not finished has a session",
		`SELECT l.id FROM bearmq.lease l WHERE NOT l.finished AND NOT EXISTS (SELECT FROM bearmq.session s WHERE s.id = l.session_id)`},
	{"a session has lived for some time",
		`SELECT s.id FROM bearmq.session s WHERE s.ttl <= interval '0' OR s.expires_at < s.started_at OR s.expires_at > clock_timestamp() + s.ttl`},
	{"a group has an anchor",
		`SELECT DISTINCT g.key FROM bearmq.job_group g WHERE NOT EXISTS (SELECT FROM bearmq.group_anchor a WHERE a.key = g.key)`},
	{"a group that is busy is held by a lease that is not finished, or by a job with a ticket",
		`SELECT g.key FROM ` + newest + ` g
			WHERE g.lease_id IS NOT NULL AND NOT EXISTS (SELECT FROM bearmq.lease l WHERE l.id = g.lease_id AND NOT l.finished)
			OR g.holder_job IS NOT NULL AND NOT EXISTS (SELECT FROM bearmq.ticket t WHERE t.job_id = g.holder_job AND t.group_key = g.key AND t.state IN ('d', 'n'))`},
	{"a group that is free and has blocked jobs has a turn",
		`SELECT g.key FROM ` + newest + ` g WHERE g.lease_id IS NULL AND g.holder_job IS NULL AND g.blocked
			AND NOT EXISTS (SELECT FROM bearmq.job j WHERE j.name IS NULL AND j.group_key = g.key AND j.xid IS NOT NULL AND ` + ahead + `)`},
	{"a blocked job lies behind what its group has handed out, and the group says that it has one",
		`SELECT t.job_id FROM bearmq.ticket t WHERE t.state = 'b' AND NOT EXISTS (
			SELECT FROM ` + newest + ` g WHERE g.key = t.group_key AND g.blocked AND (t.xid, t.job_id) > (g.through_xid, g.through_id))`},
}

// quiet are those that hold besides when nothing runs.
var quiet = []invariant{
	{"no job is claimed",
		`SELECT t.job_id FROM bearmq.ticket t WHERE t.state = 'c'`},
	{"no lease is unfinished",
		`SELECT l.id FROM bearmq.lease l WHERE NOT l.finished`},
	{"no group is held by a lease",
		`SELECT g.key FROM ` + newest + ` g WHERE g.lease_id IS NOT NULL`},
	{"a job with an outcome has no ticket",
		`SELECT t.job_id FROM bearmq.ticket t JOIN bearmq.outcome o ON o.job_id = t.job_id`},
}

// told is how much of what breaks an invariant is told.
const told = 5

// check asks everything in one statement: it sees one moment.
func check(ctx context.Context, db DB, schema string, all []invariant) error {
	parts := make([]string, len(all))
	for i, v := range all {
		parts[i] = fmt.Sprintf("SELECT %d AS n, (SELECT array_agg(x::text) FROM (SELECT x FROM (%s) q(x) LIMIT %d) q)", i, v.query, told)
	}
	text := strings.ReplaceAll(strings.Join(parts, "\nUNION ALL\n")+"\nORDER BY n", "bearmq.", pgx.Identifier{schema}.Sanitize()+".")
	rows, err := db.Query(ctx, text)
	if err != nil {
		return fmt.Errorf("invariants of schema %q: %w", schema, err)
	}
	var (
		errs []error
		n    int
		what []string
	)
	if _, err := pgx.ForEachRow(rows, []any{&n, &what}, func() error {
		if len(what) > 0 {
			errs = append(errs, fmt.Errorf("broken: %s: not so for %s", all[n].name, strings.Join(what, ", ")))
		}
		return nil
	}); err != nil {
		return fmt.Errorf("invariants of schema %q: %w", schema, err)
	}
	return errors.Join(errs...)
}
